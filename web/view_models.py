"""What pages are made of: stored images as they show them, and a visitor's search, validated."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from weavloader.errors import ConfigError, Reason
from weavloader.geo import Location, parse_point
from weavloader.images.job import UNKNOWN
from weavloader.provenance import CAPTION, Provenance
from weavloader.search import WITHIN_KM, as_json
from weavloader.store.base import DEFAULT_ALPHA, Explanation, ImageObject, SearchResult
from weavloader.store.validation import MAX_DISTANCE_KM, MAX_RESULTS
from weavloader.times import parse_moment, rfc3339

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
MAX_TEXT_LENGTH = 500
MAX_NAME_LENGTH = 256
PAGE_SIZE = 24  # fills rows of two, three, four and six
MAX_PAGE_SIZE = 100
_NODE = re.compile(r"[A-Za-z0-9]{1,16}")
_DEFAULT = {"within": WITHIN_KM, "alpha": DEFAULT_ALPHA, "page": 1, "limit": PAGE_SIZE}
_ARGUMENTS = {"text": "q"}


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
        vectors: Shape by name, and which model made it: ``1,024 numbers by google/…``.
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
    made_by = image.provenance.get(CAPTION, Provenance())
    last |= {"Caption by": _maker(made_by), "Prompt": made_by.prompt}
    return {name: value for name, value in {**first, **named, **last}.items() if value}


def _maker(made_by: Provenance) -> str:
    """Model, revision and time, as far as they are known."""
    revision = "" if made_by.revision == UNKNOWN else f"revision {made_by.revision}"
    return ", ".join(filter(None, (made_by.model, revision, readable(made_by.made_at))))


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


def _score_parts(explanation: Explanation | None) -> str:
    if explanation is None:
        return ""
    parts = {"text": explanation.keyword, "visual": explanation.vector}
    return " + ".join(f"{part.contribution:.2f} {name}" for name, part in parts.items() if part)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A search as the address holds it.

    Attributes:
        text: What to search for; empty shows the newest images.
        like: Id of an image to find similar ones of.
        vsn: Only images of this node; empty for all.
        camera: Only images of this camera; empty for all.
        project: Only images of this project's nodes; empty for all.
        since: Only images captured since, such as ``24h``; empty for all.
        until: Only images captured until; empty for all.
        caption_model: Only images whose caption this model made; empty for all.
        near: Only images taken around this ``latitude, longitude``; empty for everywhere.
        within: Kilometres around it.
        alpha: Weight of the visual match: 0 searches by text only, 1 by vector only.
        page: From 1.
        limit: Results on a page.
    """

    text: str = ""
    like: str = ""
    vsn: str = ""
    camera: str = ""
    project: str = ""
    caption_model: str = ""
    since: str = ""
    until: str = ""
    near: str = ""
    within: float = WITHIN_KM
    alpha: float = DEFAULT_ALPHA
    page: int = 1
    limit: int = PAGE_SIZE

    @property
    def offset(self) -> int:
        """Number of results before this page."""
        return (self.page - 1) * self.limit

    @property
    def filters(self) -> dict[str, str]:
        """The filters that are set, as given."""
        names = ("vsn", "camera", "project", "caption_model", "since", "until", "near")
        return {name: value for name in names if (value := getattr(self, name))}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is searched or filtered, as on a first visit."""
        return self.address() == PageQuery().address()

    def address(self, **changes: Any) -> str:
        """The address of this search with some of it changed; a change shows its first page."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given |= {"page": 1, **changes} if changes else {}
        arguments = {
            _ARGUMENTS.get(name, name): value if isinstance(value, str) else f"{value:g}"
            for name, value in given.items()
            if value != _DEFAULT.get(name, "")
        }
        return f"/?{urlencode(arguments)}" if arguments else "/"


def parse_query(argument: Callable[[str, str], str]) -> PageQuery:
    """Read a query from a request's arguments.

    Args:
        argument: Gives the argument of a name, or the default handed to it.

    Raises:
        ConfigError: An argument is invalid; the message says which and what is expected.
    """

    def text(name: str, max_length: int = MAX_NAME_LENGTH) -> str:
        value = argument(name, "").strip()
        if len(value) > max_length:
            raise _invalid(name, f"at most {max_length} characters")
        return value

    limit = int(_number("limit", argument("limit", str(PAGE_SIZE)), 1, MAX_PAGE_SIZE))
    # One more result is requested, to know whether there is a next page.
    last_page = (MAX_RESULTS - 1) // limit
    return PageQuery(
        text=text("q", MAX_TEXT_LENGTH),
        like=parse_id(text("like"), "like") if text("like") else "",
        vsn=_node(text("vsn")),
        camera=text("camera"),
        project=text("project"),
        caption_model=text("caption_model"),
        since=_moment("since", text("since")),
        until=_moment("until", text("until")),
        near=_point(text("near")),
        within=_number("within", argument("within", str(WITHIN_KM)), 0.1, MAX_DISTANCE_KM),
        alpha=_number("alpha", argument("alpha", str(DEFAULT_ALPHA)), 0.0, 1.0),
        page=int(_number("page", argument("page", "1"), 1, last_page)),
        limit=limit,
    )


def parse_id(text: str, name: str = "id") -> str:
    """An image's id in canonical form.

    Raises:
        ConfigError: It is not a UUID; the message names the argument.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise _invalid(name, "an image's id") from None


def _node(text: str) -> str:
    if text and not _NODE.fullmatch(text):
        raise _invalid("vsn", "the name of a node, such as W021")
    return text


def _moment(name: str, text: str) -> str:
    try:
        if text:
            parse_moment(text)
    except ConfigError:
        raise _invalid(name, "a time such as 24h, 7d or 2026-01-31") from None
    return text


def _point(text: str) -> str:
    try:
        if text:
            parse_point(text)
    except ConfigError:
        raise _invalid("near", "latitude, longitude such as 41.88, -87.63") from None
    return text


def _number(name: str, text: str, minimum: float, maximum: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _invalid(name, "a number") from None
    if not minimum <= value <= maximum:
        raise _invalid(name, f"a number from {minimum:g} to {maximum:g}")
    return value


def _invalid(name: str, expected: str) -> ConfigError:
    return ConfigError(f"{name}: expected {expected}", reason=Reason.BAD_ARGUMENT)
