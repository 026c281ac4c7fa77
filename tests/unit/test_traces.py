"""Traces: off they cost nothing; on, an image finds its trace and no span tells a secret."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.servers.waiting import wait_until
from tests.support.local_server import Answer, local_server
from weavloader import trace_export, traces
from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.settings import get_settings
from weavloader.traces import Span

ROOT = Path(__file__).parents[2]
LINK = "http://sage/a.jpg?signature=SECRET#x"
JOB = ImageJob(url=LINK, timestamp="2026-01-01T00:00:00Z", vsn="W1")
HEADER = f"00-{'a' * 32}-{'b' * 16}-01"
OFF = """
import sys
import client, processing, inference, job_system.signals, job_system.tasks, web.server
from weavloader import traces
with traces.processing("x", None, 0, "w"), traces.span("download"):
    traces.note(bytes=1)
traces.prepare(); traces.flush()
assert traces.trace_id() == ""
# Redis's client looks for an SDK, and so imports the API of metrics that `mcp` installs.
ours = ("opentelemetry.proto", "opentelemetry.sdk", "opentelemetry.trace")
sys.exit(any(name.startswith(ours) for name in sys.modules))
"""

On = Callable[..., None]


class Memory:
    """Keeps what would be exported."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        """As the exporter's."""
        self.spans.append(span)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[On]:
    """Turns traces on for a receiver, with further settings."""

    def turn_on(endpoint: str = "http://127.0.0.1:9", **settings: str) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    yield turn_on
    get_settings.cache_clear()


@pytest.fixture
def recorded(on: On, monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    """What was recorded so far, in the order in which it ended."""
    on()
    memory = Memory()
    monkeypatch.setattr(trace_export, "exporter", lambda: memory)
    return memory.spans


def test_where_traces_are_off_nothing_of_opentelemetry_is_imported() -> None:
    assert subprocess.run([sys.executable, "-c", OFF], cwd=ROOT, timeout=120).returncode == 0


def test_the_trace_of_an_image_has_its_id(recorded: list[Span]) -> None:
    with traces.publishing(JOB.id, "image_processing", JOB) as header:
        assert traces.trace_id() == JOB.id.replace("-", "")
    assert traces.checked_header(header) == header
    with traces.processing(JOB.id, header, 0, "w"), traces.span("download"):
        pass
    # A message without a header, such as a version before this one sent.
    with traces.processing(JOB.id, None, 0, "w"):
        pass
    publish, download, process, other = recorded
    assert {span.trace_id for span in recorded} == {uuid.UUID(JOB.id).hex}
    assert (process.parent_id, download.parent_id) == (publish.id, process.id)
    assert (publish.parent_id, other.parent_id) == ("", "")
    assert traces.trace_id() == ""


def test_a_message_of_another_program_keeps_its_trace(recorded: list[Span]) -> None:
    with traces.processing(JOB.id, HEADER, 0, "w"):
        assert traces.trace_id() == "a" * 32
    (span,) = recorded
    assert span.parent_id == "b" * 16


def test_an_image_whose_message_says_that_it_is_not_recorded_is_not(recorded: list[Span]) -> None:
    with traces.processing(JOB.id, HEADER.removesuffix("1") + "0", 0, "w"):
        assert traces.trace_id() == ""
    assert recorded == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        {"a": 1},
        "",
        "00",
        HEADER.upper(),
        HEADER + "\n",
        HEADER + "-more",
        "ff" + HEADER[2:],
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
    ],
)
def test_a_header_that_is_none_is_left_out(value: object) -> None:
    assert traces.checked_header(value) is None


def test_a_failed_step_tells_its_reason_and_no_text_of_the_error(recorded: list[Span]) -> None:
    error = TransientError("refused redis://:SECRET@host", reason=Reason.STORAGE_ERROR)
    with traces.processing(JOB.id, None, 0, "w"):
        traces.note_job(JOB)
        with pytest.raises(TransientError), traces.span("download"):
            raise error
        traces.note_failure(error)
    assert [span.error for span in recorded] == ["storage_error", "storage_error"]
    assert recorded[-1].attributes["url.full"] == "http://sage/a.jpg"
    assert b"SECRET" not in trace_export.encode(recorded, {})


def test_a_step_outside_an_image_is_not_recorded(recorded: list[Span]) -> None:
    with traces.span("clip embed"):
        traces.note(bytes=1)
    assert recorded == []


def test_a_share_of_the_images_is_traced_the_same_ones_everywhere(
    recorded: list[Span], on: On
) -> None:
    on(OTEL_TRACES_SAMPLER_ARG="0.25")
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(1000)]
    for image_id in ids:
        with traces.publishing(image_id, "q", None), traces.processing(image_id, None, 0, "w"):
            pass
    processed, published = (
        [span.trace_id for span in recorded if span.name == name] for name in ("process", "publish")
    )
    assert 200 < len(published) < 300
    assert published == processed


def test_a_collector_that_goes_away_and_comes_back_is_logged_once_each(
    on: On, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_export, "_EVERY_SECONDS", 0.05)
    with local_server(lambda request: Answer(503)) as collector:
        on(collector.url, OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20x")
        headers = trace_export.headers_of(get_settings())
        exporter = trace_export.Exporter(collector.url, headers, "weavloader")

        def send(amount: int) -> None:
            wanted = len(collector.requests) + amount
            for number in range(wanted - amount, wanted):
                exporter.add(Span("a", traces.Kind.STEP, "a" * 32, "", {}))
                wait_until(lambda number=number: len(collector.requests) > number, "a request", 20)  # type: ignore[misc]

        send(3)
        collector.answer = lambda request: Answer()
        send(2)
        exporter.end()
    lines = [record.message for record in caplog.records if record.name == trace_export.__name__]
    assert len(lines) == 2, lines
    assert "discarded" in lines[0] and "503" in lines[0]
    assert lines[1] == "traces are exported again"
    assert {each.path for each in collector.requests} == {"/v1/traces"}
    assert {each.headers["authorization"] for each in collector.requests} == {"Basic x"}


def test_a_collector_that_does_not_answer_holds_the_end_of_a_process_only_briefly() -> None:
    def hang(request: object) -> Answer:
        time.sleep(3)
        return Answer()

    with local_server(hang) as collector:
        exporter = trace_export.Exporter(collector.url, {}, "weavloader")
        exporter.add(Span("a", traces.Kind.STEP, "a" * 32, "", {}))
        began = time.monotonic()
        exporter.end()
        assert time.monotonic() - began < trace_export.FLUSH_SECONDS + 1
        assert len(collector.requests) == 1


def test_an_answer_without_end_keeps_no_span_waiting() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 4096
            time.sleep(0.01)

    with local_server(lambda request: Answer(parts=endless())) as collector:
        exporter = trace_export.Exporter(collector.url, {}, "weavloader")
        for number in range(2):
            exporter.add(Span("a", traces.Kind.STEP, "a" * 32, "", {}))
            exporter._wake.set()
            wait_until(lambda number=number: len(collector.requests) > number, "a request", 20)  # type: ignore[misc]
        exporter.end()
        assert not exporter._thread.is_alive()


def test_a_span_that_cannot_be_written_costs_its_batch_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with local_server(lambda request: Answer()) as collector:
        exporter = trace_export.Exporter(collector.url, {}, "weavloader")
        for value in ("half a pair: \ud800", "whole"):
            exporter.add(Span("a", traces.Kind.STEP, "a" * 32, "", {"a": value}))
            exporter._wake.set()
            wait_until(lambda: not exporter._waiting, "it is taken", 20)
        exporter.end()
        assert len(collector.requests) == 1
    assert "discarded" in caplog.messages[0] and "again" in caplog.messages[-1]


def test_what_waits_for_a_collector_is_bounded() -> None:
    exporter = trace_export.Exporter("http://127.0.0.1:9", {}, "weavloader")
    for _ in range(5000):
        exporter.add(Span("a", traces.Kind.STEP, "a" * 32, "", {}))
    assert len(exporter._waiting) <= trace_export._MAX_WAITING
    exporter.end()
