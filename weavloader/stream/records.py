"""Records of the stream: which are images, which are excluded, and which are rejected."""

from __future__ import annotations

import json
import reprlib
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from weavloader.errors import PermanentError, Reason
from weavloader.images.job import UNKNOWN, ImageJob
from weavloader.settings import Settings
from weavloader.stream.sage_api import BadLine

# What nodes upload besides pictures: sound, film, archives, data. A suffix that is not listed may
# be a picture's; a file that turns out to be none becomes a dead letter.
UNWANTED_SUFFIXES = frozenset(
    """
    .aac .flac .m4a .mp3 .ogg .opus .wav .wma
    .3gp .avi .h264 .h265 .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv
    .7z .bz2 .gz .lz4 .rar .tar .tbz2 .tgz .txz .xz .zip .zst
    .avro .bag .bin .cbor .cdf .csv .dat .db .feather .geojson .grib .grib2 .h5 .hdf .hdf5 .html
    .json .jsonl .las .laz .log .mat .md .msgpack .nc .nc4 .ndjson .npy .npz .parquet .pcap .pcd
    .pdf .pickle .pkl .ply .sigmf-data .sigmf-meta .sqlite .tsv .txt .xml .yaml .yml
    """.split()
)


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record that is no image, and why. It is added to the seen set, so that it counts once.

    Attributes:
        suffix: Of a file that is unwanted by its suffix, with the dot; else empty.
    """

    reason: str
    message: str
    record: str
    suffix: str = ""

    @property
    def id(self) -> str:
        """A function of the record's content."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.record))


def parse_record(record: object) -> ImageJob | RejectedRecord:
    """The image of a record from :meth:`DataApi.records`, or why the record is rejected."""
    try:
        if isinstance(record, BadLine):
            raise PermanentError(f"{record.text!r} is not JSON", reason=Reason.BAD_LINE)
        job = ImageJob.from_record(record)
    except PermanentError as error:
        return RejectedRecord(error.reason, str(error), _to_text(record))
    if (suffix := suffix_of(job)) in UNWANTED_SUFFIXES:
        message = f"a {suffix} file is no picture"
        return RejectedRecord(Reason.UNWANTED_FILE, message, _to_text(record), suffix)
    return job


def suffix_of(job: ImageJob) -> str:
    """The suffix of an image's file in lower case, with its dot; empty if it has none."""
    name = job.filename if job.filename != UNKNOWN else job.url.rpartition("/")[2]
    return PurePosixPath(name).suffix.lower()


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
