"""``docker-compose up -d`` with the real file: the replay's images arrive, whatever is killed."""

from __future__ import annotations

import json
import re
import urllib.request
from functools import partial
from pathlib import Path

from demo.servers.waiting import wait_until
from tests.containers.compose import PROJECT, Compose
from tests.containers.engine import ROOT
from tests.containers.images import REDIS

SERVICES = ("weavloader", "redis", "weaviate", "triton-preview", "prometheus")


def page(url: str) -> str:
    """What a port of loopback serves."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_every_service_becomes_healthy(compose: Compose) -> None:
    for service in SERVICES:
        (container,) = compose.containers(service)
        wait_until(partial(compose.is_healthy, container), f"{service} is healthy", 180)


def test_every_image_of_the_replay_becomes_what_it_should(compose: Compose) -> None:
    compose.wait_for_account()


def test_the_log_shows_the_moderator_at_work(compose: Compose) -> None:
    log = compose("logs", "--no-color", "weavloader")
    queued = [int(n) for n in re.findall(r"\[MODERATOR\].*?(\d+) queued", log)]
    assert sum(queued) > 0
    assert "[PROCESSOR]" in log and "[METRICS]" in log
    assert "replayed" not in log, "SAGE's password"


def test_users_reach_their_pages_and_prometheus_the_metrics(compose: Compose) -> None:
    assert "weavloader_celery_workers_online" in page("http://127.0.0.1:8080/metrics")
    assert "<form" in page("http://127.0.0.1:8081/")

    def scraped() -> bool:
        found = json.loads(page("http://127.0.0.1:9090/api/v1/targets"))["data"]["activeTargets"]
        return ("weavloader", "up") in {(t["labels"]["job"], t["health"]) for t in found}

    wait_until(scraped, "Prometheus scrapes", 60)


def documented() -> list[str]:
    """The commands of README and of docs/deployment.md that run something in a container.

    Not those of ``docker-compose run``: its containers are linked, which podman does not support.
    """
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/deployment.md"))
    table = re.findall(r"^\|.*\| `(docker-compose exec [^`]+)`", page, re.M)
    lines = re.findall(r"^\$ (docker-compose exec .+)", readme, re.M)
    return list(dict.fromkeys([*lines, *table]))


def test_commands_of_the_documentation_run_as_they_are_written(compose: Compose) -> None:
    compose.wait_for_account()
    letter = compose.redis("KEYS", "dlq:*").split()[0].removeprefix("dlq:")
    expected = {
        "redis-cli LLEN": r"^\d+$",
        "redis-cli KEYS": r"^dlq:",
        "redis-cli GET": r'"task_id"',
        "redis-cli info": r"redis_version:",
        "inspect active": r"3 nodes online",
        "tasks purge": r"[Pp]urged",
        "main.py check": r"ok +storage",
    }
    for line in documented():
        name = next(name for name in expected if name in line)
        written = line.replace("<task-id>", letter)
        said = compose.shell(f"echo y | {written}" if name == "tasks purge" else written)
        assert re.search(expected[name], said, re.M), f"{line}\n{said}"


def test_nothing_else_is_published(compose: Compose) -> None:
    published = re.findall(r"-> (\S+)", compose.engine.podman("port", "--all"))
    assert sorted(published) == [f"127.0.0.1:{port}" for port in (5555, 8080, 8081, 9090)]


def test_containers_of_ours_have_a_read_only_root(compose: Compose) -> None:
    said = compose("exec", "-T", "weavloader", "sh", "-c", "touch /app/x 2>&1 || true")
    assert "Read-only file system" in said


def test_redis_asks_for_the_password(compose: Compose) -> None:
    assert compose.redis("PING") == "PONG"
    said = compose("exec", "-T", "redis", "env", "-u", "REDISCLI_AUTH", "redis-cli", "PING")
    assert "NOAUTH" in said


def test_processors_of_other_containers_share_the_queue(compose: Compose) -> None:
    compose("--profile", "scale", "up", "-d", "--scale", "processor=3")
    workers = compose.containers("processor")
    assert len(workers) == 3
    for worker in workers:
        wait_until(partial(compose.is_healthy, worker), f"{worker} is healthy", 120)
    compose.wait_until_stored(compose.burst("shared", 120))
    for worker in workers:
        assert "stored" in compose.engine.log(worker), f"{worker} did nothing"


def test_a_killed_container_loses_nothing(compose: Compose) -> None:
    victim = compose.containers("processor")[0]
    before = compose.engine.log(victim).count("stored")
    links = compose.burst("killed", 120)
    # It holds others by the time it has stored one.
    wait_until(lambda: compose.engine.log(victim).count("stored") > before, "it is at work", 60)
    compose.engine.podman("kill", victim)
    compose.wait_until_stored(links)


def test_a_restart_loses_nothing(compose: Compose) -> None:
    links = compose.burst("restarted", 60)
    compose("restart", "redis", "weavloader", "processor")
    compose.wait_until_stored(links)


def test_down_and_up_keep_dead_letters_and_the_queue(compose: Compose) -> None:
    compose.wait_for_account()
    letters = compose.redis("KEYS", "dlq:*").split()
    assert letters
    compose("--profile", "scale", "stop", "weavloader", "processor")
    links = compose.burst("kept", 20)
    assert compose.redis("LLEN", "image_processing") == "20"
    compose("--profile", "scale", "down")
    compose("up", "-d")
    assert sorted(compose.redis("KEYS", "dlq:*").split()) == sorted(letters)
    compose.wait_until_stored(links)
    compose.wait_for_account()


def test_a_backup_of_redis_is_restored(compose: Compose, tmp_path: Path) -> None:
    def redis_cli(words: str) -> str:
        return compose.shell(f"docker-compose exec redis redis-cli {words}").strip()

    copy = tmp_path / "redis.tar"
    compose("stop", "weavloader")
    links = compose.burst("backed-up", 20)
    redis_cli("BGREWRITEAOF")
    under_way = "aof_rewrite_in_progress:1"
    wait_until(lambda: under_way not in redis_cli("INFO persistence"), "it is rewritten", 60)
    assert redis_cli("CONFIG SET auto-aof-rewrite-percentage 0") == "OK"
    compose.shell(f"docker-compose exec -T redis tar -C /data -c appendonlydir > {copy}")
    assert redis_cli("CONFIG SET auto-aof-rewrite-percentage 100") == "OK"
    assert redis_cli("FLUSHALL") == "OK"
    compose.shell("docker-compose stop weavloader redis")
    unpack = "'rm -rf /data/appendonlydir; tar -C /data -x'"
    # As `docker-compose run --rm --no-deps -T redis`, which podman does not support.
    run = f"podman run --rm -i --user 999:999 -v {PROJECT}_redis-data:/data {REDIS}"
    compose.engine.run(["sh", "-c", f"{run} sh -c {unpack} < {copy}"])
    compose("up", "-d", "redis")
    wait_until(lambda: compose.redis("PING") == "PONG", "Redis", 60)
    assert compose.redis("LLEN", "image_processing") == "20"
    compose("up", "-d")
    compose.wait_until_stored(links)


def test_down_leaves_nothing(compose: Compose) -> None:
    compose("--profile", "scale", "down", "--volumes")
    for kind in ("container", "volume", "network"):
        assert not [name for name in compose.engine.names(kind) if name.startswith(PROJECT)]
