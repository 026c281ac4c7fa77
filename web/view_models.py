"""Stored images as the pages show them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from weavloader.geo import Location
from weavloader.images.job import UNKNOWN
from weavloader.search import as_json
from weavloader.store.base import Explanation, ImageObject, SearchResult
from weavloader.times import rfc3339
from web.query import PageQuery

# How captions of the preview models begin; their package runs in Triton and is not installed here.
PREVIEW_PREFIX = "Preview caption:"
MAX_FACETS = 8
AROUND = timedelta(minutes=30)
_LABELLED = re.compile(
    r"(?:DESCRIPTION: )?(?P<description>.*?)(?: LABELS: (?P<labels>.*))?", re.DOTALL
)
_FACTS = {
    "vsn": "Node",
    "camera": "Camera",
    "project": "Project",
    "address": "Address",
    "filename": "File",
    "job": "Job",
    "task": "Task",
    "plugin": "Plugin",
    "host": "Host",
    "zone": "Zone",
    "node": "Node id",
}


@dataclass(frozen=True, slots=True)
class Caption:
    """A parsed caption.

    Attributes:
        description: The caption without labels.
        keywords: Its labels; empty where the model gives none.
        is_preview: Whether a preview model wrote it, which describes little but colours.
    """

    description: str
    keywords: tuple[str, ...] = ()
    is_preview: bool = False

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse ``Preview caption: …`` or ``DESCRIPTION: … LABELS: a, b``."""
        match = _LABELLED.fullmatch(text.strip())
        description, labels = text, ""
        if match:
            description, labels = match["description"], match["labels"] or ""
        keywords = tuple(filter(None, (label.strip() for label in labels.split(","))))
        is_preview = description.startswith(PREVIEW_PREFIX)
        return cls(description.removeprefix(PREVIEW_PREFIX).strip(), keywords, is_preview)


@dataclass(frozen=True, slots=True)
class Card:
    """A search result as the grid shows it.

    Attributes:
        vsn: The node; empty where unknown, as is ``camera``.
        time: Time of capture for people; ``iso`` for machines.
        score: 0 to 1; 0 without a search text.
        score_parts: How text and visual match contribute to it: ``0.60 text + 0.40 visual``.
    """

    id: str
    caption: Caption
    vsn: str
    camera: str
    time: str
    iso: str
    score: float
    score_parts: str

    @classmethod
    def of(cls, result: SearchResult) -> Self:
        """The card of a result."""
        return cls(
            id=result.id,
            caption=Caption.read(result.text.get("caption", "")),
            vsn=known(result.text.get("vsn", "")),
            camera=known(result.text.get("camera", "")),
            time=readable(result.captured_at) or result.text.get("timestamp", ""),
            iso=rfc3339(result.captured_at) if result.captured_at else "",
            score=round(result.score, 4),
            score_parts=_score_parts(result.explanation),
        )


def facets(results: Sequence[SearchResult], query: PageQuery) -> dict[str, list[tuple[str, int]]]:
    """Values to filter a search by: those among its results, the most frequent first.

    A filter that is set, or would keep all results, is omitted.
    """
    counts = {
        name: Counter(filter(None, (known(result.text.get(name, "")) for result in results)))
        for name in ("vsn", "camera", "project")
        if name not in query.filters
    }
    return {name: count.most_common(MAX_FACETS) for name, count in counts.items() if len(count) > 1}


@dataclass(frozen=True, slots=True)
class Details:
    """An image with its metadata, for its page.

    Attributes:
        facts: Value by label.
        vectors: Shape by model, such as ``1024``.
        original: Link to the original file; empty where that is not a web address.
        around: Address of the images of its camera within half an hour.
        nearby: Address of the images near its location; empty where that is not known.
    """

    id: str
    caption: Caption
    has_picture: bool
    facts: dict[str, str]
    vectors: dict[str, str]
    original: str
    around: str
    nearby: str

    @classmethod
    def of(cls, image: ImageObject) -> Self:
        """The details of a stored image."""
        location = image.location
        return cls(
            id=image.id,
            caption=Caption.read(image.text.get("caption", "")),
            has_picture=bool(image.image),
            facts=_facts(image),
            vectors=_shapes(image),
            original=_web_link(image.text),
            around=_around(image),
            nearby=PageQuery(near=_degrees(location)).address() if location else "",
        )


def image_json(image: ImageObject) -> dict[str, Any]:
    """An image as ``/api/images/<id>`` gives it: as in a search, with the shapes of its vectors."""
    fields = as_json(SearchResult(image.id, 0.0, image.text, image.captured_at, image.location))
    del fields["score"]
    return {
        **fields,
        "vectors": {name: list(vector.shape) for name, vector in image.vectors.items()},
        "picture": f"/picture/{image.id}.jpg" if image.image else None,
        "thumbnail": f"/thumbnail/{image.id}.jpg" if image.image else None,
    }


def known(name: str) -> str:
    """The name; empty for the placeholder of an unknown one."""
    return "" if name == UNKNOWN else name


def readable(moment: datetime | None) -> str:
    """For people, in UTC to the minute."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else ""


def _facts(image: ImageObject) -> dict[str, str]:
    location = image.location
    first = {"Captured": f"{image.captured_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"}
    named = {_FACTS[name]: known(image.text.get(name, "")) for name in _FACTS}
    last = {"Location": _degrees(location)} if location else {}
    return {name: value for name, value in {**first, **named, **last}.items() if value}


def _degrees(location: Location) -> str:
    return f"{location.latitude:.5f}, {location.longitude:.5f}"


def _shapes(image: ImageObject) -> dict[str, str]:
    shapes = {name: vector.shape for name, vector in image.vectors.items()}
    return {name: " × ".join(f"{n:,}" for n in shape) for name, shape in sorted(shapes.items())}


def _web_link(text: Mapping[str, str]) -> str:
    link = text.get("link", "")
    try:
        scheme = urlsplit(link).scheme
    except ValueError:
        return ""
    return link if scheme in ("http", "https") else ""


def _around(image: ImageObject) -> str:
    moment = image.captured_at.astimezone(UTC)
    since, until = ((moment + step).isoformat(timespec="seconds") for step in (-AROUND, AROUND))
    vsn, camera = (known(image.text.get(name, "")) for name in ("vsn", "camera"))
    return PageQuery(vsn=vsn, camera=camera, since=since, until=until).address()


def _score_parts(explanation: Explanation | None) -> str:
    if explanation is None:
        return ""
    parts = {"text": explanation.keyword, "visual": explanation.vector}
    return " + ".join(f"{part.contribution:.2f} {name}" for name, part in parts.items() if part)
