"""What the records of the stream are: images to take, images of no concern, or no images."""

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
class Refusal:
    """A record that is no image, and why. Marked as seen, so that it is counted once."""

    reason: str
    message: str
    record: str

    @property
    def id(self) -> str:
        """A function of the record's content."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.record))


def judge(record: object) -> ImageJob | Refusal:
    """The image of a record that :meth:`DataApi.records` gave, or why there is none."""
    try:
        if isinstance(record, BadLine):
            raise PermanentError(f"{record.text!r} is not JSON", reason=Reason.BAD_LINE)
        return ImageJob.from_record(record)
    except PermanentError as error:
        return Refusal(error.reason, str(error), _written_out(record))


def unallowed_names(settings: Settings) -> frozenset[str]:
    """The names of ``UNALLOWED_NODES``, in one case."""
    return frozenset(name.casefold() for name in settings.unallowed_nodes)


def is_unallowed(job: ImageJob, names: Collection[str]) -> bool:
    """Whether a job's node, by VSN or id, is among :func:`unallowed_names`."""
    return job.vsn.casefold() in names or job.node.casefold() in names


def member(item: ImageJob | Refusal) -> bytes:
    """What an item is remembered by: the 16 bytes of its id."""
    return bytes.fromhex(item.id.replace("-", ""))


def _written_out(record: object) -> str:
    try:
        return json.dumps(record, sort_keys=True, default=repr)
    except RecursionError:  # nested too deeply to be written
        return reprlib.repr(record)
