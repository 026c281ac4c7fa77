"""Stored images as the pages show them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from weavloader.images.job import UNKNOWN
from weavloader.search_output import as_json
from weavloader.store.base import Explanation, ImageObject, Location, SearchResult
from web.query import PageQuery

# As the preview models begin theirs; their package runs in Triton and is not installed here.
PREVIEW_PREFIX = "Preview caption:"
MOST_FACETS = 8
AROUND = timedelta(minutes=30)
_LABELLED = re.compile(r"(?:DESCRIPTION: )?(?P<words>.*?)(?: LABELS: (?P<labels>.*))?", re.DOTALL)
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
    "node": "Node's id",
}


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption as its model wrote it, taken apart.

    Attributes:
        words: The description alone.
        keywords: Labels, where the model gave some.
        is_preview: Whether a preview model wrote it, which knows colours and little else.
    """

    words: str
    keywords: tuple[str, ...] = ()
    is_preview: bool = False

    @classmethod
    def read(cls, text: str) -> Self:
        """Take a caption apart: ``Preview caption: …`` or ``DESCRIPTION: … LABELS: a, b``."""
        match = _LABELLED.fullmatch(text.strip())
        words, labels = (match["words"], match["labels"] or "") if match else (text, "")
        keywords = tuple(filter(None, (label.strip() for label in labels.split(","))))
        return cls(
            words.removeprefix(PREVIEW_PREFIX).strip(), keywords, words.startswith(PREVIEW_PREFIX)
        )


@dataclass(frozen=True, slots=True)
class Card:
    """A search result as the grid shows it.

    Attributes:
        vsn: The node; empty where unknown, as is ``camera``.
        time: Moment of capture for people; ``iso`` for machines.
        score: 0 to 1; 0 where nothing was searched for.
        shares: What words and looks gave to it, by each half that found it.
    """

    id: str
    caption: Caption
    vsn: str
    camera: str
    time: str
    iso: str
    score: float
    shares: str

    @classmethod
    def of(cls, result: SearchResult) -> Self:
        """The card of a result."""
        return cls(
            id=result.id,
            caption=Caption.read(result.text.get("caption", "")),
            vsn=known(result.text.get("vsn", "")),
            camera=known(result.text.get("camera", "")),
            time=readable(result.captured_at) or result.text.get("timestamp", ""),
            iso=iso(result.captured_at) or "",
            score=round(result.score, 4),
            shares=_shares(result.explanation),
        )


def facets(results: Sequence[SearchResult], query: PageQuery) -> dict[str, list[tuple[str, int]]]:
    """What a search could be narrowed to: names among its results, the most frequent first.

    A filter that is set, or would leave all of them, is no choice and is left out.
    """
    counts = {
        name: Counter(filter(None, (known(result.text.get(name, "")) for result in results)))
        for name in ("vsn", "camera", "project")
        if name not in query.filters
    }
    return {
        name: count.most_common(MOST_FACETS) for name, count in counts.items() if len(count) > 1
    }


@dataclass(frozen=True, slots=True)
class Details:
    """An image with all its metadata, for its page.

    Attributes:
        facts: Value by name, as people read them.
        vectors: Shape by model, such as ``1024``.
        original: Link to the file it was made from; empty where that is no web address.
        around: Address of what its camera saw half an hour before and after.
        nearby: Address of what was seen around its place; empty where that is not known.
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
        place = image.location
        return cls(
            id=image.id,
            caption=Caption.read(image.text.get("caption", "")),
            has_picture=bool(image.image),
            facts=_facts(image),
            vectors=_shapes(image),
            original=_safe_link(image.text),
            around=_around(image),
            nearby=PageQuery(near=_degrees(place)).address() if place else "",
        )


def image_json(image: ImageObject) -> dict[str, Any]:
    """An image as ``/api/images/<id>`` gives it: as in a search, with its vectors' shapes."""
    told = as_json(SearchResult(image.id, 0.0, image.text, image.captured_at, image.location))
    del told["score"]
    return {
        **told,
        "vectors": {name: list(vector.shape) for name, vector in image.vectors.items()},
        "picture": f"/picture/{image.id}.jpg" if image.image else None,
        "thumbnail": f"/thumbnail/{image.id}.jpg" if image.image else None,
    }


def known(name: str) -> str:
    """The name, or nothing where it only says that it is unknown."""
    return "" if name == UNKNOWN else name


def iso(moment: datetime | None) -> str | None:
    """RFC 3339 UTC."""
    return moment.astimezone(UTC).isoformat() if moment else None


def readable(moment: datetime | None) -> str:
    """For people, in UTC to the minute."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else ""


def duration(seconds: float | None) -> str:
    """A time span to its largest unit, such as ``3 h``; a dash where it is not known."""
    if seconds is None:
        return "–"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _facts(image: ImageObject) -> dict[str, str]:
    place = image.location
    first = {"Captured": f"{image.captured_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"}
    named = {_FACTS[name]: known(image.text.get(name, "")) for name in _FACTS}
    last = {"Place": _degrees(place)} if place else {}
    return {name: value for name, value in {**first, **named, **last}.items() if value}


def _degrees(place: Location) -> str:
    return f"{place.latitude:.5f}, {place.longitude:.5f}"


def _shapes(image: ImageObject) -> dict[str, str]:
    shapes = {name: vector.shape for name, vector in image.vectors.items()}
    return {name: " × ".join(f"{n:,}" for n in shape) for name, shape in sorted(shapes.items())}


def _safe_link(text: Mapping[str, str]) -> str:
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


def _shares(explanation: Explanation | None) -> str:
    if explanation is None:
        return ""
    halves = {"words": explanation.words, "looks": explanation.looks}
    return " + ".join(f"{half.share:.2f} {name}" for name, half in halves.items() if half)
