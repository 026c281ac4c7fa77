"""Export of spans to a collector by OTLP over HTTP; imported where traces are on.

Of OpenTelemetry only the format is a package (``opentelemetry-proto``). Its SDK would cost every
process 0.4 s and 3 MB although traces are off, since the client of Redis imports it where it is
installed; and its exporters log a line for every batch that they cannot send.
"""

from __future__ import annotations

import atexit
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from functools import cache
from threading import Event, Thread
from urllib.parse import unquote

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from weavloader import __version__
from weavloader.http_client import exchange, new_http_client, read_error
from weavloader.logs import mask
from weavloader.settings import Settings, get_settings
from weavloader.traces import Attribute, Span

# Within what a role has to end after a signal.
FLUSH_SECONDS = 1.0
_EVERY_SECONDS = 5.0
_REQUEST_SECONDS = 5.0
# Some 200 images; more are dropped, the oldest first, while the collector is away.
_MAX_WAITING = 2048
_BATCH = 512

logger = logging.getLogger(__name__)


class Exporter:
    """Sends spans from a thread of its own, some at a time; those not taken are discarded.

    Args:
        endpoint: Base URL of the collector's receiver of OTLP by HTTP.
        headers: Sent with each request, such as a token.
        service: The name of the service.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], service: str) -> None:
        self._url = f"{endpoint}/v1/traces"
        self._headers = {**headers, "Content-Type": "application/x-protobuf"}
        self._resource = {"service.name": service, "service.version": __version__}
        self._waiting: deque[Span] = deque(maxlen=_MAX_WAITING)
        self._wake, self._is_ending = Event(), False
        self._is_failing = False
        self._thread = Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def add(self, span: Span) -> None:
        """Send a span soon."""
        self._waiting.append(span)
        if len(self._waiting) >= _BATCH:
            self._wake.set()

    def end(self) -> None:
        """Send what waits, for at most :data:`FLUSH_SECONDS`, and no more."""
        self._is_ending = True
        self._wake.set()
        self._thread.join(FLUSH_SECONDS)

    def _run(self) -> None:
        with new_http_client(_REQUEST_SECONDS) as http:
            http.headers.update(self._headers)
            is_last = False
            while not is_last:
                self._wake.wait(_EVERY_SECONDS)
                self._wake.clear()
                is_last = self._is_ending
                while self._waiting:
                    amount = min(_BATCH, len(self._waiting))
                    self._send(http, [self._waiting.popleft() for _ in range(amount)])

    def _send(self, http: httpx.Client, spans: Iterable[Span]) -> None:
        try:
            content = encode(spans, self._resource)
            with exchange(
                http, "POST", self._url, seconds=_REQUEST_SECONDS, content=content
            ) as answer:
                answer.raise_for_status()
                read_error(answer)  # so that the connection is kept
        except (httpx.HTTPError, ValueError) as error:  # the latter of what no span can hold
            if not self._is_failing:
                why = mask(f"{type(error).__name__}: {error}".splitlines()[0])
                logger.warning("traces are discarded until the collector takes them: %s", why)
            self._is_failing = True
            return
        if self._is_failing:
            logger.warning("traces are exported again")
        self._is_failing = False


def encode(spans: Iterable[Span], resource: Mapping[str, str]) -> bytes:
    """A request of OTLP."""
    scope = ScopeSpans(
        scope=InstrumentationScope(name="weavloader"), spans=[_encoded(span) for span in spans]
    )
    about = Resource(attributes=_attributes(resource))
    sent = ResourceSpans(resource=about, scope_spans=[scope])
    return bytes(ExportTraceServiceRequest(resource_spans=[sent]).SerializeToString())


def headers_of(settings: Settings) -> dict[str, str]:
    """The headers of ``OTEL_EXPORTER_OTLP_HEADERS``: ``name=value`` pairs, percent-encoded."""
    pairs = settings.otel_exporter_otlp_headers.get_secret_value().split(",")
    split = (pair.partition("=") for pair in pairs if "=" in pair)
    return {unquote(name).strip(): unquote(value).strip() for name, _, value in split}


@cache
def exporter() -> Exporter:
    """This process's exporter, made on first use."""
    settings = get_settings()
    made = Exporter(
        settings.otel_exporter_otlp_endpoint, headers_of(settings), settings.otel_service_name
    )
    # Of a command; the children of a worker end by a signal of Celery.
    atexit.register(made.end)
    return made


def flush() -> None:
    """End the exporter of this process, if it has one."""
    if exporter.cache_info().currsize:
        exporter().end()


def _encoded(span: Span) -> OtlpSpan:
    attributes = span.attributes | ({"error.type": span.error} if span.error else {})
    return OtlpSpan(
        name=span.name,
        kind=OtlpSpan.SpanKind.Value(span.kind.value),
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.id),
        parent_span_id=bytes.fromhex(span.parent_id),
        start_time_unix_nano=span.started,
        end_time_unix_nano=span.ended,
        attributes=_attributes(attributes),
        status=Status(code=Status.STATUS_CODE_ERROR if span.error else Status.STATUS_CODE_UNSET),
    )


def _attributes(values: Mapping[str, Attribute]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_any_value(value)) for name, value in values.items()]


def _any_value(value: Attribute) -> AnyValue:
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=value)
