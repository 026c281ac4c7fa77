"""What is asked at the moment of a scrape: Flower's page, and whether components are well."""

from __future__ import annotations

import asyncio
import gc
import platform
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest

from metrics.families import gauge
from metrics.health import HealthChecks, Probe, builtin_probes, is_healthy
from metrics.page import LiveFamilies, about_families, renamed_families, reserved_tasks
from metrics.redis_state import TIMEOUT as REDIS_TIMEOUT
from tests.support.local_server import Answer as Answered
from tests.support.openai_stand_in import KEY, openai_stand_in
from weavloader import __version__
from weavloader.errors import Reason, TransientError
from weavloader.redis_connection import connect_redis
from weavloader.settings import load_settings

PAGE = """\
# HELP flower_events_total Number of events
# TYPE flower_events_total counter
flower_events_total{task="t",type="task-sent",worker="processor@a"} 3.0
# HELP flower_worker_prefetched_tasks Number of tasks prefetched
# TYPE flower_worker_prefetched_tasks gauge
flower_worker_prefetched_tasks{task="t",worker="processor@a"} 2.0
flower_worker_prefetched_tasks{task="t",worker="processor@b"} 1.0
flower_worker_prefetched_tasks{task="t",worker="worker2@a"} 5.0
"""


def exposition(*families: Metric) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LiveFamilies(families))
    return generate_latest(registry).decode()


def by_label(family: Metric) -> dict[str, float]:
    return {next(iter(sample.labels.values())): sample.value for sample in family.samples}


def test_help_type_and_samples_of_flower_are_renamed_together() -> None:
    page = exposition(*renamed_families(PAGE))
    assert "# HELP weavloader_flower_events_total Number of events\n" in page
    assert "# TYPE weavloader_flower_events_total counter\n" in page
    assert "\nweavloader_flower_events_total{" in page
    assert not [line for line in page.splitlines() if line.startswith("flower_")]


def test_a_page_that_is_no_exposition_is_refused() -> None:
    with pytest.raises(ValueError):
        renamed_families("<html>not metrics</html>")


def test_of_two_families_with_one_name_the_first_is_kept() -> None:
    page = exposition(gauge("dlq_size", "ours", 1), gauge("dlq_size", "Flower's", 2))
    assert page.count("# TYPE weavloader_dlq_size") == 1
    assert "weavloader_dlq_size 1.0" in page


def test_the_page_tells_the_version_and_where_people_find_the_pages() -> None:
    page = exposition(*about_families(load_settings(public_url="https://weavloader.example.org/")))
    assert (
        f'weavloader_build_info{{python="{platform.python_version()}",version="{__version__}"}} 1.0'
        in page
    )
    assert 'pages="https://weavloader.example.org"' in page


def test_reserved_tasks_are_added_up_by_role() -> None:
    reserved = by_label(reserved_tasks(renamed_families(PAGE)))
    assert reserved == {"processor": 3, "moderator": 0, "cleaner": 0, "other": 5}


def fail() -> None:
    raise TransientError("broken", reason=Reason.UNREACHABLE)


def run_checks(checks: HealthChecks) -> dict[str, str]:
    try:
        return asyncio.run(checks.run())
    finally:
        checks.close()


def test_each_component_is_told_apart_with_its_reason() -> None:
    checks = HealthChecks({"redis": lambda: None, "store": fail})
    assert run_checks(checks) == {"redis": "", "store": "broken"}


def test_a_probe_that_hangs_holds_up_neither_the_others_nor_the_answer() -> None:
    release = Event()

    def hang() -> None:
        release.wait()

    checks = HealthChecks({"redis": lambda: None, "triton": hang}, 0.1)

    async def ask_twice() -> list[dict[str, str]]:
        answers = [await checks.run(), await checks.run()]
        release.set()
        return answers

    try:
        first, second = asyncio.run(ask_twice())
    finally:
        checks.close()
    assert first == second == {"redis": "", "triton": "no answer within 0.1 s"}


def test_a_probe_that_fails_after_the_deadline_leaves_no_traceback_in_the_log() -> None:
    release, said = Event(), list[object]()

    def fail_late() -> None:
        release.wait()
        fail()

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        checks = HealthChecks({"store": fail_late}, 0.05)
        await checks.run()
        release.set()
        await asyncio.wait(checks._running.values())
        checks.close()
        del checks
        gc.collect()

    asyncio.run(ask())
    assert not said


def test_a_component_that_came_back_is_well_again() -> None:
    answers: Iterator[Any] = iter([fail, lambda: None])
    checks = HealthChecks({"store": lambda: next(answers)()})

    async def ask_twice() -> list[str]:
        return [(await checks.run())["store"] for _ in range(2)]

    try:
        assert asyncio.run(ask_twice()) == ["broken", ""]
    finally:
        checks.close()


def test_an_unforeseen_error_tells_its_kind_and_never_its_text() -> None:
    def leak() -> None:
        raise RuntimeError("secret")

    assert run_checks(HealthChecks({"redis": leak})) == {"redis": "RuntimeError"}


def test_flower_is_not_needed_for_health() -> None:
    assert is_healthy({"redis": "", "triton": "", "store": "", "flower": "ConnectError"})
    assert not is_healthy({"redis": "", "triton": "UNAVAILABLE", "store": "", "flower": ""})


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        ready = self.path == "/v1/.well-known/ready"
        self.send_response(self.status if ready else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def weaviate() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def probe(component: str, **settings: Any) -> None:
    chosen = load_settings(celery_broker_url="redis://127.0.0.1:1/0", **settings)
    redis = connect_redis(chosen, timeout=REDIS_TIMEOUT)
    try:
        builtin_probes(chosen, redis)[component]()
    finally:
        redis.close()


@pytest.mark.parametrize("status", [200, 503])
def test_weaviate_is_asked_whether_it_is_ready(
    weaviate: ThreadingHTTPServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answer, "status", status)
    where = {"weaviate_host": "127.0.0.1", "weaviate_port": weaviate.server_port}
    if status == 200:
        probe("store", **where)
    else:
        with pytest.raises(TransientError, match="HTTP 503"):
            probe("store", **where)


def embedded_probe(folder: Path) -> Probe:
    settings = load_settings(vector_store="embedded", embedded_store_path=str(folder))
    redis = connect_redis(settings, timeout=REDIS_TIMEOUT)
    return builtin_probes(settings, redis)["store"]


@pytest.mark.parametrize("name", [".", "made/by/the/first/image"])
def test_a_store_that_nothing_was_written_to_is_well(tmp_path: Path, name: str) -> None:
    embedded_probe(tmp_path / name)()


def test_a_place_where_no_store_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransientError, match="file is no folder"):
        embedded_probe(tmp_path / "file" / "store")()


def test_an_embedded_store_that_has_gone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "store.sqlite3").write_bytes(b"SQLite format 3\0...")
    probe = embedded_probe(folder)
    probe()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(TransientError, match="no store at"):
        probe()


def test_a_database_that_vanished_is_told_from_one_that_never_was(tmp_path: Path) -> None:
    probe = embedded_probe(tmp_path)
    database = tmp_path / "store.sqlite3"
    database.write_bytes(b"SQLite format 3\0...")
    probe()
    database.unlink()
    with pytest.raises(TransientError, match="vanished"):
        probe()


def test_a_database_that_was_overwritten_is_named(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite3").write_bytes(b"\0" * 100)
    with pytest.raises(TransientError, match="is no database"):
        embedded_probe(tmp_path)()


@pytest.mark.parametrize("answer", [b"\x08\x01", b""])
def test_triton_is_asked_whether_it_is_ready(answer: bytes) -> None:
    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService",
        {"ServerReady": grpc.unary_unary_rpc_method_handler(lambda request, context: answer)},
    )
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        if answer:
            probe("triton", triton_host="127.0.0.1", triton_port=port)
        else:
            with pytest.raises(TransientError, match="not ready"):
                probe("triton", triton_host="127.0.0.1", triton_port=port)
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("status", "said"), [(200, ""), (401, ""), (404, ""), (500, "HTTP 500"), (503, "HTTP 503")]
)
def test_another_captioner_is_asked_whether_it_answers_without_its_key(
    status: int, said: str
) -> None:
    with openai_stand_in() as stand_in:
        stand_in.key, stand_in.models = "", Answered(status)
        settings = {
            "openai_base_url": stand_in.url,
            "openai_api_key": KEY,
            "caption_model": "openai",
        }
        try:
            probe("captioner", **settings)
        except TransientError as error:
            assert str(error) == said
        else:
            assert not said
        (request,) = stand_in.server.requests
        assert request.path == "/v1/models"
        assert "authorization" not in request.headers


def test_a_site_that_captions_by_triton_has_no_other_captioner() -> None:
    with pytest.raises(KeyError):
        probe("captioner", openai_base_url="http://127.0.0.1:1/v1")


def test_a_captioner_that_is_down_makes_the_site_unhealthy() -> None:
    assert not is_healthy({"redis": "", "triton": "", "captioner": "ConnectError", "store": ""})


@pytest.mark.parametrize("component", ["redis", "triton", "captioner", "store", "flower"])
def test_a_component_that_is_not_there_is_a_passing_failure(component: str) -> None:
    nowhere = {"triton_host": "127.0.0.1", "triton_port": 1, "flower_url": "http://127.0.0.1:1"}
    nowhere |= {"caption_model": "openai", "openai_base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(TransientError):
        probe(component, weaviate_host="127.0.0.1", weaviate_port=1, **nowhere)
