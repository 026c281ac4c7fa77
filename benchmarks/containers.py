"""``python -m benchmarks.containers``: size of the image, start time and idle memory of each role.

Needs what ``make test-containers`` needs: root, and Debian's podman and buildah. One container
after another is started beside a Redis, and looked at once it has been idle for a while; the
figures are kept in ``build/containers.json``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.bench_usage import usage
from commands.roles import ROLES, WORKERS
from demo.servers.waiting import wait_until
from tests.containers import images
from tests.containers.engine import BASE, Engine, missing, only_engine
from weavloader import redis_keys

BUILD = Path(__file__).resolve().parents[1] / "build"
ALL_IN_ONE = "all-in-one"
_NETWORK = "figures"
_PATIENCE = 180.0
_IDLE_SECONDS = 20.0
_MB = 1_000_000
_FOLDERS = ("/opt/venv", "/app", "/var/cache/apt")
_PAGES = {
    "metrics": ":8080/health/live",
    "flower": ":5555/healthcheck",
    "web": ":8081/",
    ALL_IN_ONE: ":8080/health/ready",
}
_KEYS = {"stream": redis_keys.STREAM_QUEUE, "scheduler": redis_keys.BEAT_LOCK}
_SETTINGS = {
    "VECTOR_STORE": "embedded",
    "WEB_ADDRESS": "0.0.0.0",
    "CELERY_BROKER_URL": "redis://redis:6379/0",
    "CELERY_RESULT_BACKEND": "redis://redis:6379/0",
}


def main() -> None:
    """Build the image, measure, and print tables."""
    if lack := missing():
        raise SystemExit(f"containers cannot be run here: {lack}")
    with only_engine() as engine:
        images.build_ours(engine)
        images.build_redis(engine)
        sizes, containers = _sizes(engine), dict(_containers(engine))
    BUILD.mkdir(exist_ok=True)
    figures = {"mb": sizes, "containers": containers}
    (BUILD / "containers.json").write_text(json.dumps(figures, indent=1) + "\n")
    _show(Console(), sizes, containers)


def _sizes(engine: Engine) -> dict[str, float]:
    """MB of the image, of what it stands on, and of its large folders."""
    whole, base = (
        int(engine.podman("image", "inspect", "--format", "{{.Size}}", name)) / _MB
        for name in (images.OURS, BASE)
    )
    look = ["du", "--summarize", "--bytes", *_FOLDERS]
    lines = engine.podman("run", "--rm", "--user=0", images.OURS, *look).splitlines()
    folders = {line.split()[1]: int(line.split()[0]) / _MB for line in lines}
    return {"base": base, **folders, "whole": whole}


def _containers(engine: Engine) -> Iterator[tuple[str, dict[str, float]]]:
    """Figures of the all-in-one container, then of each role beside a Redis."""
    with _redis(engine) as client:
        for name in (ALL_IN_ONE, *ROLES):
            client.flushall()
            yield name, _measured(engine, name, client)


def _measured(engine: Engine, name: str, client: redis.Redis) -> dict[str, float]:
    """Seconds from ``podman run`` until it is ready; PSS and processes once it is idle."""
    options = [f"--name={name}", f"--network={_NETWORK}", "--read-only", "--tmpfs=/tmp"]
    command = []
    if name != ALL_IN_ONE:
        options += [f"--env={variable}={value}" for variable, value in _SETTINGS.items()]
        command = ["python", "main.py", name]
    began = time.monotonic()
    engine.podman("run", "--detach", "--cap-drop=all", *options, images.OURS, *command)
    try:
        wait_until(_readiness(engine, name, client), f"{name} is ready", _PATIENCE)
        ready = time.monotonic() - began
        time.sleep(_IDLE_SECONDS)
        used = usage(int(engine.podman("inspect", "--format", "{{.State.Pid}}", name)))
    finally:
        engine.podman("rm", "--force", "--volumes", "--time", "0", name)
    return {"ready_s": ready, "pss_mb": used.pss_mb, "processes": used.processes}


def _readiness(engine: Engine, name: str, client: redis.Redis) -> Callable[[], bool]:
    """What tells that a container does its work."""
    if name in WORKERS:
        return lambda: " ready." in engine.log(name)
    if name in _KEYS:
        return lambda: bool(client.exists(_KEYS[name]))
    return partial(_answers, f"http://{_address(engine, name)}{_PAGES[name]}")


def _address(engine: Engine, container: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return engine.podman("inspect", "--format", form, container).strip()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def _redis(engine: Engine) -> Iterator[redis.Redis]:
    """A client of an empty Redis that containers of the network find as ``redis``."""
    engine.podman("network", "create", _NETWORK)
    engine.podman(
        "run",
        "--detach",
        "--name",
        "redis",
        f"--network={_NETWORK}",
        images.REDIS,
        "redis-server",
        "--save",
        "",
        "--protected-mode",
        "no",
    )
    try:
        with redis.Redis(_address(engine, "redis"), socket_timeout=5) as client:
            wait_until(partial(_pings, client), "Redis answers")
            yield client
    finally:
        engine.podman("rm", "--force", "--volumes", "--time", "0", "redis")
        engine.podman("network", "rm", _NETWORK)


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _show(console: Console, sizes: dict[str, float], found: dict[str, dict[str, float]]) -> None:
    for part, size in sizes.items():
        console.print(f"{part}: {size:.0f} MB", highlight=False)
    table = Table("container", "ready after (s)", "idle PSS (MB)", "processes")
    for name, each in found.items():
        table.add_row(
            name, f"{each['ready_s']:.1f}", f"{each['pss_mb']:.0f}", f"{each['processes']}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
