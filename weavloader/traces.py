"""Traces: the way of each image and what every step took, as spans of OpenTelemetry.

They are an option: without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing is recorded. The trace of an
image has the image's own id, without the dashes, so that it is found by that id, and a retry, a
late upload or a reprocessed dead letter joins the same trace, whoever sends it again.

No span holds the text of an error, which may quote a link or a password: logs and dead letters
hold it, without secrets.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from weavloader.errors import WeavloaderError
from weavloader.settings import get_settings

if TYPE_CHECKING:
    from weavloader.images.job import ImageJob

HEADER = "traceparent"
"""The header of a message in which its trace travels, as W3C Trace Context writes it."""
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-(0[01])")
_OFF: AbstractContextManager[None] = nullcontext()
_NO_HEADER: AbstractContextManager[str] = nullcontext("")

Attribute = str | int | float


class Kind(Enum):
    """What a span is to others; the values are OpenTelemetry's names."""

    STEP = "SPAN_KIND_INTERNAL"
    CALL = "SPAN_KIND_CLIENT"
    PUBLISH = "SPAN_KIND_PRODUCER"
    PROCESS = "SPAN_KIND_CONSUMER"


@dataclass(slots=True)
class Span:
    """A step of an image.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: Id of the span that this one is a part or a consequence of; empty for none.
        id: 16 hexadecimal digits.
        started: Unix nanoseconds, as :attr:`ended`.
        error: The constant word for what failed; empty if nothing did.
    """

    name: str
    kind: Kind
    trace_id: str
    parent_id: str
    attributes: dict[str, Attribute]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: int = field(default_factory=time.time_ns)
    ended: int = 0
    error: str = ""


_current: ContextVar[Span | None] = ContextVar("span", default=None)


def checked_header(value: object) -> str | None:
    """The header of a message, if it is one: another costs a message its trace, no more."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def span(name: str, kind: Kind = Kind.STEP) -> AbstractContextManager[None]:
    """A step of the image that is worked on here; an error inside marks it as failed."""
    parent = _current.get()
    if parent is None:  # traces are off, or it is a step of a search or a check
        return _OFF
    return _step(Span(name, kind, parent.trace_id, parent.id, {}))


def publishing(image_id: str, queue: str, job: ImageJob | None) -> AbstractContextManager[str]:
    """The way of an image to its queue; gives the :data:`HEADER` of its message, else ``""``.

    Args:
        job: The image, where it is known.
    """
    if not get_settings().otel_exporter_otlp_endpoint or not _is_chosen(image_id):
        return _NO_HEADER
    attributes = {"messaging.destination.name": queue, **_attributes(image_id, job)}
    return _published(Span("publish", Kind.PUBLISH, _trace_of(image_id), "", attributes))


def processing(
    image_id: str, header: object, retries: int, worker: str
) -> AbstractContextManager[None]:
    """One attempt of an image; how it ends is for :func:`note_failure` to say.

    Args:
        header: Of its message.
        retries: How many were made before.
        worker: The name of the worker.
    """
    if not get_settings().otel_exporter_otlp_endpoint:
        return _OFF
    found = _TRACEPARENT.fullmatch(header) if isinstance(header, str) else None
    is_recorded = found[3] == "01" if found else _is_chosen(image_id)
    if not is_recorded:
        return _OFF
    trace_id, parent_id = (found[1], found[2]) if found else (_trace_of(image_id), "")
    attributes = {
        **_attributes(image_id, None),
        "weavloader.retries": retries,
        "weavloader.worker": worker,
    }
    return _open(Span("process", Kind.PROCESS, trace_id, parent_id, attributes))


def note(**attributes: Attribute) -> None:
    """Add to the span that is open here, under names that begin with ``weavloader.``."""
    current = _current.get()
    if current is not None:
        current.attributes |= {f"weavloader.{name}": each for name, each in attributes.items()}


def note_job(job: ImageJob) -> None:
    """Say in the open span which image it is."""
    current = _current.get()
    if current is not None:
        current.attributes |= _attributes(job.id, job)


def note_failure(error: BaseException) -> None:
    """Mark the open span as failed, by the constant word of the error."""
    current = _current.get()
    if current is not None:
        current.error = reason_of(error)


def reason_of(error: BaseException) -> str:
    """The reason of our errors, the type of others."""
    return str(error.reason) if isinstance(error, WeavloaderError) else type(error).__name__


def trace_id() -> str:
    """Id of the trace that is recorded here, 32 hexadecimal digits; empty where none is."""
    current = _current.get()
    return "" if current is None else current.trace_id


def trace_id_of(header: str) -> str:
    """Id of the trace in a header."""
    return header.split("-")[1]


def prepare() -> None:
    """Import what exports spans, once for all children of this process.

    It is started by the first span, and so after the fork.
    """
    if get_settings().otel_exporter_otlp_endpoint:
        import weavloader.trace_export  # noqa: F401


def flush() -> None:
    """Send what was recorded, before this process ends; waits briefly for a slow collector."""
    if get_settings().otel_exporter_otlp_endpoint:
        from weavloader.trace_export import flush

        flush()


@contextmanager
def _open(opened: Span) -> Iterator[None]:
    from weavloader.trace_export import exporter

    mark = _current.set(opened)
    try:
        yield
    finally:
        _current.reset(mark)
        opened.ended = time.time_ns()
        exporter().add(opened)


@contextmanager
def _step(opened: Span) -> Iterator[None]:
    with _open(opened):
        try:
            yield
        except BaseException as error:
            note_failure(error)
            raise


@contextmanager
def _published(opened: Span) -> Iterator[str]:
    with _step(opened):
        yield f"00-{opened.trace_id}-{opened.id}-01"


def _is_chosen(image_id: str) -> bool:
    """Whether an image is of the share that is traced, which is the same in every process."""
    return int(_trace_of(image_id)[:8], 16) < get_settings().otel_traces_sampler_arg * 2**32


def _trace_of(image_id: str) -> str:
    try:
        return uuid.UUID(image_id).hex
    except ValueError:  # of a task without an image
        return uuid.uuid5(uuid.NAMESPACE_URL, image_id).hex


def _attributes(image_id: str, job: ImageJob | None) -> dict[str, Attribute]:
    known: dict[str, Attribute] = {"weavloader.image.id": image_id}
    if job is not None:
        known |= {"weavloader.vsn": job.vsn, "url.full": _without_query(job.url)}
    return known


def _without_query(link: str) -> str:
    parts = urlsplit(link)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
