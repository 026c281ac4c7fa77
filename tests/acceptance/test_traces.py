"""Traces of real workers, as a collector of OTLP receives them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from demo.sage_replay.faults import STORAGE, Fault
from demo.sage_replay.server import Replay
from demo.servers.ports import free_ports
from demo.servers.redis import running_redis
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.acceptance.growth_workers import Workers, running_workers
from tests.acceptance.system import environment_for
from tests.chaos.dataset import Published, catalogue, images
from tests.support.local_server import Answer, LocalServer, local_server

POLL = "from tasks import monitor_data_stream; monitor_data_stream.delay()"
TOKEN = "a-collectors-token"
ROLES = {"moderator": (), "processor": ("--concurrency", "1")}
# Below the span of an attempt: each step, and the calls of the models.
STEPS = {"lookup", "download", "decode", "caption", "embed", "node", "store"}
CALLS = {"gemma3 caption": "caption", "clip embed": "embed"}


@dataclass(frozen=True, slots=True)
class Traced:
    """A moderator and a processor that export traces, and the one image that the stream has."""

    workers: Workers
    receiver: LocalServer
    replay: Replay
    image: Published
    redis: Any

    @property
    def trace_id(self) -> str:
        """Of the trace of the image."""
        return self.image.id.replace("-", "")

    def poll(self) -> None:
        """Let the moderator read the stream."""
        self.workers.run("-c", POLL).check_returncode()

    def end(self) -> None:
        """Ask all to end, which is when they send what they have not sent yet."""
        for role in ROLES:
            self.workers.end_by_sigterm(role)

    def spans(self) -> list[Span]:
        """All spans that the receiver got, in the order of their beginnings."""
        found = [
            span
            for request in self.receiver.requests
            for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        assert {span.trace_id.hex() for span in found} <= {self.trace_id}
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def lines(self, role: str) -> list[dict[str, Any]]:
        """The lines that a role logged."""
        lines = self.workers.log(role).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def attributes(span: Span) -> dict[str, Any]:
    """Its attributes by name."""
    found = ((each.key, each.value) for each in span.attributes)
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in found}


def named(spans: Sequence[Span], name: str) -> list[Span]:
    """The spans of a name."""
    return [span for span in spans if span.name == name]


@contextmanager
def running(triton: Triton, folder: Path, collector: str | None = None) -> Iterator[Traced]:
    """Start it all.

    Args:
        collector: Its URL, of a receiver other than the test's.
    """
    with (
        running_redis(folder) as url,
        Replay() as replay,
        local_server(lambda request: Answer()) as receiver,
        redis_py.Redis.from_url(url) as redis,
    ):
        drawn = images(replay.host, "traced", 3, 7)
        image = next(each for each in drawn if not each.is_excluded)
        replay.catalogue = catalogue([image], 0)
        variables = environment_for(url, replay, triton, folder) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector or receiver.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{TOKEN}",
            "LOG_FORMAT": "json",
        }
        with running_workers(folder, variables) as workers:
            for role, more in ROLES.items():
                workers.start(role, "main.py", role, *more)
            yield Traced(workers, receiver, replay, image, redis)


@pytest.fixture
def traced(triton: Triton, tmp_path: Path) -> Iterator[Traced]:
    with running(triton, tmp_path) as started:
        yield started


def test_one_trace_holds_all_that_became_of_an_image(traced: Traced) -> None:
    # An attempt that fails, and its retry.
    traced.replay.add_fault(Fault("status", target=STORAGE, status=503))
    traced.poll()
    traced.workers.wait_until_stored([traced.image])
    traced.end()

    spans = traced.spans()
    (publish,), (first, second) = named(spans, "publish"), named(spans, "process")
    assert (publish.kind, publish.parent_span_id) == (Span.SPAN_KIND_PRODUCER, b"")
    for retries, attempt in enumerate((first, second)):
        assert attempt.parent_span_id == publish.span_id
        assert attempt.kind == Span.SPAN_KIND_CONSUMER
        told = attributes(attempt)
        assert told["weavloader.image.id"] == traced.image.id
        assert told["url.full"] == traced.image.link
        assert told["weavloader.retries"] == retries
    assert first.status.code == Status.STATUS_CODE_ERROR
    assert attributes(first)["error.type"] == "storage_error"
    assert attributes(first)["weavloader.outcome"].startswith("retried")
    assert second.status.code == Status.STATUS_CODE_UNSET
    assert attributes(second)["weavloader.outcome"] == "stored"

    below = {span.name: span for span in spans if span.parent_span_id == second.span_id}
    assert below.keys() == STEPS
    assert attributes(below["download"])["weavloader.bytes"] == len(traced.image.content())
    for call, step in CALLS.items():
        (found,) = named(spans, call)
        assert found.parent_span_id == below[step].span_id
        assert found.start_time_unix_nano < found.end_time_unix_nano

    (line,) = (line for line in traced.lines("processor") if line.get("outcome") == "stored")
    (queued,) = (line for line in traced.lines("moderator") if "image" in line)
    assert line["trace"] == queued["trace"] == traced.trace_id
    check_secrets(traced)


def check_secrets(traced: Traced) -> None:
    """No secret was sent with spans, but the collector's own."""
    sent = b"".join(request.body for request in traced.receiver.requests)
    for secret in (traced.replay.environment()["SAGE_PASS"], TOKEN, "redis://"):
        assert secret.encode() not in sent
    tokens = {request.headers["authorization"] for request in traced.receiver.requests}
    assert tokens == {f"Bearer {TOKEN}"}
    assert all(TOKEN not in traced.workers.log(role) for role in ROLES)


@pytest.mark.slow
def test_a_dead_letter_and_its_reprocessing_and_a_late_upload_join_the_trace(
    traced: Traced,
) -> None:
    traced.replay.add_fault(Fault("status", target=STORAGE, status=404))
    traced.replay.add_fault(Fault("status", target=STORAGE, status=410))
    traced.poll()
    key = f"dlq:{traced.image.id}"
    wait_until(lambda: traced.redis.exists(key), "the dead letter", 60)
    assert json.loads(traced.redis.get(key))["trace_id"] == traced.trace_id
    shown = traced.workers.run("main.py", "dlq", "show", traced.image.id).stdout.decode()
    assert traced.trace_id in shown
    traced.workers.run("main.py", "dlq", "retry", traced.image.id).check_returncode()
    traced.workers.wait_until_stored([traced.image])
    traced.end()

    spans = traced.spans()
    published, again = named(spans, "publish")
    late, dead, stored = named(spans, "process")
    assert late.parent_span_id == dead.parent_span_id == published.span_id
    assert stored.parent_span_id == again.span_id
    told = [attributes(each)["weavloader.outcome"] for each in (late, dead, stored)]
    assert [each.partition(" in ")[0] for each in told] == ["asked for again", "dead", "stored"]
    assert late.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.slow
def test_a_collector_that_is_away_costs_a_log_line_and_no_image(
    triton: Triton, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with running(triton, tmp_path, f"http://127.0.0.1:{port}") as started:
        started.poll()
        started.workers.wait_until_stored([started.image])
        # What is said at the end of a process would be its second line.
        for role in ROLES:
            wait_until(lambda role=role: _complaints(started, role), role, 30)  # type: ignore[misc]
        started.end()
        assert [len(_complaints(started, role)) for role in ROLES] == [1, 1]


def _complaints(traced: Traced, role: str) -> list[dict[str, Any]]:
    return [line for line in traced.lines(role) if "traces are" in line["message"]]
