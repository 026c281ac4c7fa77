"""Records of the stream: which are images, which are excluded, and which are rejected."""

from __future__ import annotations

import json
import reprlib
import uuid
from collections.abc import Collection
from dataclasses import dataclass

from weavloader.errors import PermanentError, Reason
from weavloader.images.job import ImageJob
from weavloader.settings import Settings
from weavloader.stream.sage_api import BadLine


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record that is no image, and why. It is added to the seen set, so that it counts once."""

    reason: str
    message: str
    record: str

    @property
    def id(self) -> str:
        """A function of the record's content."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.record))


def parse_record(record: object) -> ImageJob | RejectedRecord:
    """The image of a record from :meth:`DataApi.records`, or why the record is rejected."""
    try:
        if isinstance(record, BadLine):
            raise PermanentError(f"{record.text!r} is not JSON", reason=Reason.BAD_LINE)
        return ImageJob.from_record(record)
    except PermanentError as error:
        return RejectedRecord(error.reason, str(error), _to_text(record))


def unallowed_names(settings: Settings) -> frozenset[str]:
    """The names of ``UNALLOWED_NODES``, case-folded."""
    return frozenset(name.casefold() for name in settings.unallowed_nodes)


def is_unallowed(job: ImageJob, names: Collection[str]) -> bool:
    """Whether a job's node, by VSN or id, is among :func:`unallowed_names`."""
    return job.vsn.casefold() in names or job.node.casefold() in names


def seen_key(item: ImageJob | RejectedRecord) -> bytes:
    """The member of the seen set that stands for an item: the 16 bytes of its id."""
    return bytes.fromhex(item.id.replace("-", ""))


def _to_text(record: object) -> str:
    try:
        return json.dumps(record, sort_keys=True, default=repr)
    except RecursionError:  # nested too deeply
        return reprlib.repr(record)
