"""The job of one image: what the stream says of it, cleaned, and the message that carries it."""

from __future__ import annotations

import re
import reprlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

from weavloader.errors import PermanentError, Reason
from weavloader.logs import mask
from weavloader.times import parse_timestamp, utc_now

UNKNOWN = "unknown"
META_FIELDS = ("vsn", "filename", "camera", "host", "job", "node", "plugin", "task", "zone")
MAX_NAME = 256
MAX_URL = 2048
# A poll computes the ids of a batch of 1,000 several times.
_MAX_CACHED_IDS = 1024
# The oldest images of the network are of 2018; a node's clock may be a little ahead.
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
MAX_AHEAD = timedelta(days=1)
# `…/<job>/<task>/<node>/<ns>-<filename>`; a node's id is its MAC address.
_STORAGE_PATH = re.compile(r"/([0-9a-fA-F]{16})/\d+-([^/]+)$")
_IMAGE_ID_VERSION = 5
# The arguments of any task of ours are a few dozen values.
_MAX_SEARCHED = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@lru_cache(_MAX_CACHED_IDS)
def image_id(link: str) -> str:
    """Id of the image behind ``link``: its object id, its task id and its dead letter's id.

    ``uuid5(NAMESPACE_URL, link)``, so that writing an image twice gives one object.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_URL, link))


def is_image_id(text: str) -> bool:
    """Whether an id is of the kind that :func:`image_id` makes, and not drawn at random."""
    try:
        return uuid.UUID(text).version == _IMAGE_ID_VERSION and "-" in text
    except ValueError:
        return False


def image_data_in(arguments: object) -> Mapping[str, object] | None:
    """The first image in the arguments of a task, however they are nested; ``None`` without one."""
    left = [arguments]
    for _ in range(_MAX_SEARCHED):
        if not left:
            return None
        each = left.pop()
        if isinstance(each, Mapping):
            if isinstance(each.get("url"), str):
                return each
            left.extend(reversed(list(each.values())))
        elif isinstance(each, list | tuple):
            left.extend(reversed(each))
    return None


def image_id_in(arguments: object) -> str | None:
    """Id of the image that :func:`image_data_in` finds."""
    found = image_data_in(arguments)
    if found is None:
        return None
    # Of a link with half a surrogate pair, which is no image's, but in a message all the same.
    return image_id(str(found["url"]).strip(" ").encode(errors="replace").decode())


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to process; its fields are the message ``process_image_task`` receives.

    Attributes:
        url: Where the image lies, http or https, without credentials; as the record gives it, so
            that its id stays the same. All of it after the host is a path, unquoted.
        timestamp: Moment of capture, RFC 3339 as the data API gave it.
    """

    url: str
    timestamp: str
    vsn: str = UNKNOWN
    filename: str = UNKNOWN
    camera: str = UNKNOWN
    host: str = UNKNOWN
    job: str = UNKNOWN
    node: str = UNKNOWN
    plugin: str = UNKNOWN
    task: str = UNKNOWN
    zone: str = UNKNOWN

    @classmethod
    def from_record(cls, record: object, now: datetime | None = None) -> Self:
        """Take a record of the data API.

        A meta field that is missing or no name becomes ``"unknown"``; a file name and a node's
        id are read off the link where it has them.

        Args:
            now: What decides whether a time is too far ahead; by default this host's clock.

        Raises:
            PermanentError: Without a usable link or time there is no image; ``reason`` is
                ``bad_record``, ``bad_url`` or ``bad_timestamp``.
        """
        if not isinstance(record, Mapping):
            raise PermanentError("the record is not an object", reason=Reason.BAD_RECORD)
        meta = record.get("meta")
        meta = meta if isinstance(meta, Mapping) else {}
        return cls._checked(record.get("value"), record.get("timestamp"), meta, now)

    @classmethod
    def from_message(cls, message: object, now: datetime | None = None) -> Self:
        """Take ``image_data`` from the queue, whoever put it there.

        Args:
            now: As :meth:`from_record`.

        Raises:
            PermanentError: As :meth:`from_record`.
        """
        if not isinstance(message, Mapping):
            raise PermanentError("image_data is not an object", reason=Reason.BAD_RECORD)
        return cls._checked(message.get("url"), message.get("timestamp"), message, now)

    @classmethod
    def _checked(
        cls, url: object, timestamp: object, meta: Mapping[str, object], now: datetime | None
    ) -> Self:
        names = {name: clean_name(meta.get(name)) for name in META_FIELDS}
        link = _checked_url(url)
        if UNKNOWN in (names["node"], names["filename"]) and (found := _STORAGE_PATH.search(link)):
            for name, text in zip(("node", "filename"), found.groups(), strict=True):
                names[name] = clean_name(text) if names[name] == UNKNOWN else names[name]
        return cls(url=link, timestamp=_checked_timestamp(timestamp, now), **names)

    @property
    def id(self) -> str:
        """Id of the image, of its task and of its object in the store."""
        return image_id(self.url)

    @property
    def captured_at(self) -> datetime:
        """Moment of capture, UTC, to the microsecond."""
        return parse_timestamp(self.timestamp)

    def to_message(self) -> dict[str, str]:
        """The JSON that :meth:`from_message` reads."""
        return {name: getattr(self, name) for name in FIELDS}


FIELDS = tuple(field.name for field in fields(ImageJob))


def clean_name(value: object) -> str:
    """A name fit for a store and a metric label: one line of at most 256 characters.

    Numbers are written out; anything else that is not text, and nothing, is ``"unknown"``.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return UNKNOWN
    start = value[: 4 * MAX_NAME]
    # Nearly all are printable, which is seen sooner than that nothing matches.
    line = start if start.isprintable() else _CONTROL.sub(" ", start)
    return line.strip()[:MAX_NAME] or UNKNOWN


def _checked_timestamp(value: object, now: datetime | None) -> str:
    try:
        if not isinstance(value, str) or len(value) > 64:
            raise ValueError
        moment = parse_timestamp(value)
    except (ValueError, OverflowError):
        raise PermanentError(
            f"{_shown(value)} is not a time", reason=Reason.BAD_TIMESTAMP
        ) from None
    if not OLDEST <= moment <= (now or utc_now()) + MAX_AHEAD:
        message = f"{_shown(value)} is before 2000 or more than a day ahead"
        raise PermanentError(message, reason=Reason.BAD_TIMESTAMP)
    return value


def _checked_url(value: object) -> str:
    value = value.strip(" ") if isinstance(value, str) else value
    if not isinstance(value, str) or len(value) > MAX_URL or _CONTROL.search(value):
        raise PermanentError(f"{_shown(value)} is not a link", reason=Reason.BAD_URL)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and parts.username is None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise PermanentError(f"{_shown(value)} is not a link", reason=Reason.BAD_URL)
    return value


def _shown(value: object) -> str:
    """Something absurd, fit for one line of a log: short, however deep or long it is."""
    return repr(mask(value)[:80]) if isinstance(value, str) else reprlib.repr(value)[:80]
