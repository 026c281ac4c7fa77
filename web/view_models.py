"""What pages are made of: stored images as they show them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from weavloader.errors import PermanentError
from weavloader.geo import Location
from weavloader.images.encode import is_reduced
from weavloader.images.formats import identify
from weavloader.images.job import UNKNOWN
from weavloader.provenance import CAPTION, Provenance
from weavloader.search import as_json
from weavloader.store.base import Explanation, ImageObject, SearchResult
from weavloader.times import readable, rfc3339
from web.captions import Caption
from web.map import local_time
from web.query import PAGE_SIZE, PageQuery

AROUND = timedelta(minutes=30)
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
# By format, as the name of a file ends; what is not taken has no ending and no type.
SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Card:
    """A search result as the grid shows it.

    Attributes:
        vsn: The node; empty where unknown, as is ``camera``.
        time: Time of capture for people; ``iso`` for machines, ``local`` at the camera, which is
            empty where its location is not known.
        score: 0 to 1; 0 without a search text.
        score_parts: How text and visual match contribute to it: ``0.60 text + 0.40 visual``.
        address: Of its page.
        folded: How many near-duplicates it stands for besides itself.
        unfolded: Address of all of these.
    """

    id: str
    caption: Caption
    vsn: str
    camera: str
    time: str
    iso: str
    local: str
    score: float
    score_parts: str
    address: str
    folded: int
    unfolded: str

    @classmethod
    def of(cls, result: SearchResult, query: PageQuery | None = None, folded: int = 0) -> Self:
        """The card of a result.

        Args:
            query: The search that found it, which its page leads through.
            folded: How many near-duplicates it stands for.
        """
        path = f"/image/{result.id}"
        return cls(
            id=result.id,
            caption=Caption.read(result.text.get("caption", "")),
            vsn=known(result.text.get("vsn", "")),
            camera=known(result.text.get("camera", "")),
            time=readable(result.captured_at),
            iso=rfc3339(result.captured_at) if result.captured_at else "",
            local=_local(result.captured_at, result.location),
            score=round(result.score, 4),
            score_parts=_score_parts(result.explanation),
            address=replace(query, page=1).address(path) if query else path,
            folded=folded,
            unfolded=_unfolded(result, query) if query and folded else "",
        )


@dataclass(frozen=True, slots=True)
class Details:
    """An image with its metadata, for its page.

    Attributes:
        is_reduced: Whether the picture is a reduced copy of SAGE's file.
        facts: Value by label.
        vectors: Shape by name, and which model made it: ``1,024 numbers by google/…``.
        download: Name of the original file when it is downloaded.
        link: Where SAGE keeps the original; empty where that is not a web address.
        around: Address of the images of its camera within half an hour.
        nearby: Address of the images near its location; empty where that is not known.
    """

    id: str
    caption: Caption
    has_picture: bool
    is_reduced: bool
    facts: dict[str, str]
    vectors: dict[str, str]
    time: str
    iso: str
    local: str
    download: str
    link: str
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
            is_reduced=is_reduced(image.image),
            facts=_facts(image),
            vectors=_shapes(image),
            time=readable(image.captured_at),
            iso=rfc3339(image.captured_at),
            local=_local(image.captured_at, location),
            download=download_name(image),
            link=_web_link(image.text),
            around=_around(image),
            nearby=PageQuery(near=_degrees(location)).address() if location else "",
        )


def image_json(image: ImageObject) -> dict[str, Any]:
    """An image as ``/api/images/<id>`` gives it: as in a search, with the shapes of its vectors."""
    fields = as_json(
        SearchResult(
            image.id,
            0.0,
            image.text,
            image.captured_at,
            image.location,
            provenance=image.provenance,
        )
    )
    del fields["score"]
    return {
        **fields,
        "vectors": {name: list(vector.shape) for name, vector in image.vectors.items()},
        "picture": f"/picture/{image.id}.jpg" if image.image else None,
        "thumbnail": f"/thumbnail/{image.id}.jpg" if image.image else None,
        "original": f"/original/{image.id}" if image.image else None,
        "is_reduced": is_reduced(image.image),
    }


def download_name(image: ImageObject) -> str:
    """A name for the original file: ``W021-top-20261124T120000Z.jpg``."""
    parts = [known(image.text.get(name, "")) for name in ("vsn", "camera")]
    moment = f"{image.captured_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    words = (_UNSAFE.sub("-", part)[:60].strip("-.") for part in (*parts, moment))
    return "-".join(filter(None, words)) + SUFFIXES.get(file_format(image.image), "")


def file_format(data: bytes) -> str:
    """The format of a file; empty where it is none that is taken."""
    try:
        return identify(data)[0]
    except PermanentError:
        return ""


def known(name: str) -> str:
    """The name; empty for the placeholder of an unknown one."""
    return "" if name == UNKNOWN else name


def _facts(image: ImageObject) -> dict[str, str]:
    location = image.location
    named = {_FACTS[name]: known(image.text.get(name, "")) for name in _FACTS}
    last = {"Location": _degrees(location)} if location else {}
    made_by = image.provenance.get(CAPTION, Provenance())
    last |= {"Caption by": _maker(made_by), "Prompt": made_by.prompt}
    return {name: value for name, value in {**named, **last}.items() if value}


def _maker(made_by: Provenance) -> str:
    """Model, revision and time, as far as they are known."""
    revision = "" if made_by.revision == UNKNOWN else f"revision {made_by.revision}"
    return ", ".join(filter(None, (made_by.model, revision, readable(made_by.made_at))))


def _local(moment: datetime | None, location: Location | None) -> str:
    return local_time(moment, location) if moment and location else ""


def _degrees(location: Location) -> str:
    return f"{location.latitude:.5f}, {location.longitude:.5f}"


def _shapes(image: ImageObject) -> dict[str, str]:
    shapes = {name: vector.shape for name, vector in sorted(image.vectors.items())}
    return {
        name: f"{' × '.join(f'{n:,}' for n in shape)} numbers by "
        f"{_maker(image.provenance.get(name, Provenance()))}"
        for name, shape in shapes.items()
    }


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


def _unfolded(result: SearchResult, query: PageQuery) -> str:
    """The search of the camera's images within an hour, each for itself."""
    assert result.captured_at is not None  # noqa: S101 - else nothing is folded
    moment, hour = result.captured_at.astimezone(UTC), timedelta(hours=1)
    since, until = (rfc3339(moment + step, "seconds") for step in (-hour, hour))
    vsn, camera = (result.text[name] for name in ("vsn", "camera"))
    return query.address(vsn=vsn, camera=camera, since=since, until=until, fold="0")


def _score_parts(explanation: Explanation | None) -> str:
    if explanation is None:
        return ""
    parts = {"text": explanation.keyword, "visual": explanation.vector}
    return " + ".join(f"{part.contribution:.2f} {name}" for name, part in parts.items() if part)


def notebook_call(query: PageQuery, url: str) -> str:
    """The same search in Python, by ``weavloader.notebook``, for all its results.

    Args:
        url: Where the pages are.
    """
    given: dict[str, object] = {
        "like": query.like,
        "unlike": query.unlike,
        **dict(replace(query, like=(), unlike=(), page=1, limit=PAGE_SIZE, fold="").arguments()),
        "url": url,
    }
    text = given.pop("q", None)
    # JSON and Python write texts, and lists of them, the same way.
    written = {
        name: json.dumps(value, ensure_ascii=False) for name, value in given.items() if value
    }
    words = [] if text is None else [json.dumps(text, ensure_ascii=False)]
    return f"search({', '.join([*words, *(f'{name}={text}' for name, text in written.items())])})"
