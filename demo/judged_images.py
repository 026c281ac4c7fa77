"""Images with queries that are judged: what a measurement of search quality searches.

Read from a folder in one of three formats, each told by its files:

- ``judgements.csv`` with the columns ``query``, ``image``, ``relevant``, beside the images; and,
  where there is one, ``images.csv`` with what a node says of an image;
- INQUIRE (https://github.com/inquire-benchmark/INQUIRE, its ``data/README.md``):
  ``inquire_queries_<split>.csv`` and ``inquire_annotations.csv``, which lists relevant images only;
- a data set as ``imsearch_eval`` (https://github.com/waggle-sensor/imsearch_eval) loads it from
  Hugging Face: ``<split>-*.parquet`` with the image itself, and whether it is relevant, in a row of
  each query. INQUIRE-Rerank, INQUIRE-Benchmark-small and FireBench are such.

An image that is not judged for a query counts as not relevant to it, as in TREC.
"""

from __future__ import annotations

import csv
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from demo.pictures import draw, style_of
from weavloader.errors import ConfigError, Reason
from weavloader.images.job import META_FIELDS

JUDGEMENTS, IMAGES = "judgements.csv", "images.csv"
DRAWN_IMAGES = 240
_ANNOTATIONS = "inquire_annotations.csv"
_QUERY_COLUMNS = ("query_text", "query")
_LABEL_COLUMNS = ("relevance_label", "relevant")
_IMAGE_COLUMNS = ("image_id", "inat24_image_id")
_ABOUT = ("timestamp", *META_FIELDS)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_LABELS = {"0": False, "1": True, "false": False, "true": True}
_ROWS = 64  # of Parquet at a time, each with its image
_SEED = 11

Advance = Callable[[int], None]
"""Told how many images were written so far."""


@dataclass(frozen=True, slots=True)
class JudgedImages:
    """Images, and which of them are relevant to which query.

    Attributes:
        files: Where each image lies, by its name.
        relevant: By the text of a query, the names of what is relevant to it; may be empty.
        labels: By the name of an image, whether the query that it comes with calls it relevant;
            only of a data set in which each image comes with a query.
        about: By the name of an image, what its node says of it, as in an image's message.
    """

    files: Mapping[str, Path]
    relevant: Mapping[str, frozenset[str]]
    labels: Mapping[str, bool] = field(default_factory=dict)
    about: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Judgements:
    """Judgements, as they are read; each may be given once."""

    seen: dict[tuple[str, str], str] = field(default_factory=dict)
    relevant: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    labels: dict[str, bool] = field(default_factory=dict)

    def add(self, query: str, image: str, is_relevant: bool, where: str) -> None:
        if earlier := self.seen.get((query, image)):
            raise _bad(f"{where}: image {image} is judged again for {query!r} (first: {earlier})")
        self.seen[query, image] = where
        found = self.relevant[query]
        if is_relevant:
            found.add(image)
        self.labels[image] = self.labels.get(image, False) or is_relevant


def read_judged_images(
    folder: Path, split: str | None, written_to: Path, advance: Advance = lambda written: None
) -> JudgedImages:
    """Read a folder in any of the formats.

    Args:
        split: The part of the data set, such as ``test``; needed where there are several and none
            is called ``test``.
        written_to: The folder for images that lie in Parquet.

    Raises:
        ConfigError: A file, a column or an image is missing, or a line is wrong; it says which.
    """
    if not folder.is_dir():
        raise _bad(f"{folder} is no folder")
    if (folder / _ANNOTATIONS).exists():
        return _checked(_read_inquire(folder, split), folder)
    if parquet := sorted(folder.rglob("*.parquet")):
        return _checked(_read_parquet(parquet, split, written_to, advance), folder)
    if (folder / JUDGEMENTS).exists():
        if split is not None:
            raise _bad(f"{folder} has no splits: {JUDGEMENTS} is all of it")
        return _checked(_read_own(folder), folder)
    text = f"{folder} has no {JUDGEMENTS}, no {_ANNOTATIONS} and no *.parquet"
    raise _bad(f"{text}: docs/search.md names the formats")


def _checked(judged: JudgedImages, folder: Path) -> JudgedImages:
    if not any(judged.relevant.values()):
        raise _bad(f"{folder}: no query has a relevant image, so that nothing can be measured")
    return judged


def _read_own(folder: Path) -> JudgedImages:
    files, judgements = _images_in(folder), _Judgements()
    for where, row in _csv_rows(folder / JUDGEMENTS, ("query", "image", "relevant")):
        query, image = _text(row, "query", where), _text(row, "image", where)
        if image not in files:
            raise _bad(f"{where}: there is no image {image} in {folder}")
        judgements.add(query, image, _label(_text(row, "relevant", where), where), where)
    about = _read_about(folder / IMAGES, files) if (folder / IMAGES).exists() else {}
    return JudgedImages(files, _frozen(judgements.relevant), about=about)


def _read_about(path: Path, files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    about: dict[str, dict[str, str]] = {}
    for where, row in _csv_rows(path, ("image",), ("image", *_ABOUT)):
        image = _text(row, "image", where)
        if image not in files:
            raise _bad(f"{where}: there is no image {image} in {path.parent}")
        if image in about:
            raise _bad(f"{where}: image {image} is described again")
        about[image] = {name: value for name in _ABOUT if (value := row.get(name))}
    return about


def _read_inquire(folder: Path, split: str | None) -> JudgedImages:
    splits = {path.stem.rpartition("_")[2]: path for path in folder.glob("inquire_queries_*.csv")}
    path = splits[_chosen_split(folder, splits, split)]
    texts: dict[str, str] = {}
    for where, row in _csv_rows(path, ("query_id", "query_text")):
        number = _text(row, "query_id", where)
        if number in texts:
            raise _bad(f"{where}: query {number} is listed again")
        texts[number] = _text(row, "query_text", where)
    files, judgements = _images_in(folder), _Judgements()
    columns = ("query_id", "image_id", "image_path")
    for where, row in _csv_rows(folder / _ANNOTATIONS, columns):
        query, image = texts.get(row["query_id"]), _text(row, "image_path", where)
        if query is None:
            continue  # of another split
        if image not in files:
            raise _bad(f"{where}: there is no image {image} in {folder}")
        judgements.add(query, image, True, where)
    relevant = {text: judgements.relevant.get(text, set()) for text in texts.values()}
    return JudgedImages(files, _frozen(relevant))


def _read_parquet(
    paths: Sequence[Path], split: str | None, folder: Path, advance: Advance
) -> JudgedImages:
    splits: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        splits[_split_of(path)].append(path)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    judgements = _Judgements()
    for path in splits[_chosen_split(paths[0].parent, splits, split)]:
        for where, row in _parquet_rows(path):
            query, image = _text(row, "query", where), _text(row, "image_id", where)
            judgements.add(query, image, _label(_text(row, "relevant", where), where), where)
            if image not in files:
                files[image] = _write_image(folder, image, row["image"], where)
                advance(len(files))
    return JudgedImages(files, _frozen(judgements.relevant), judgements.labels)


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows with their columns under one name each, and where each row stands."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        present, number = file.schema_arrow.names, 0
        columns = {
            "query": _column(path, present, *_QUERY_COLUMNS),
            "relevant": _column(path, present, *_LABEL_COLUMNS),
            "image_id": _column(path, present, *_IMAGE_COLUMNS),
            "image": _column(path, present, "image"),
        }
        for batch in file.iter_batches(_ROWS, columns=[*columns.values()]):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}, row {number}", {name: row[columns[name]] for name in columns}
    except (pyarrow.ArrowException, OSError) as error:
        raise _bad(f"{path.name} cannot be read: {error}") from error


def _column(path: Path, present: Sequence[str], *names: str) -> str:
    found = next((name for name in names if name in present), None)
    if found is None:
        raise _bad(f"{path.name}: no column {' or '.join(names)}; it has {', '.join(present)}")
    return found


def _write_image(folder: Path, name: str, image: Any, where: str) -> Path:
    data = image.get("bytes") if isinstance(image, Mapping) else image
    if not isinstance(data, bytes) or not data:
        raise _bad(f"{where}: image {name} has no bytes")
    path = folder / sha256(name.encode()).hexdigest()[:24]
    if not path.exists() or path.stat().st_size != len(data):
        _write(path, data)
    return path


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole: an interrupted run leaves none that is cut short."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


def _split_of(path: Path) -> str:
    """Of ``test-00000-of-00004.parquet``, or of ``test/0000.parquet``."""
    name = re.split(r"[-.]", path.name)[0]
    return path.parent.name if name.isdigit() else name


def _chosen_split(folder: Path, splits: Mapping[str, object], wanted: str | None) -> str:
    only = next(iter(splits)) if len(splits) == 1 else "test"
    chosen = wanted or only
    if chosen not in splits:
        text = f"{folder} has no split {chosen}; there is {', '.join(sorted(splits)) or 'none'}"
        raise _bad(text)
    return chosen


def _images_in(folder: Path) -> dict[str, Path]:
    """Every image in a folder and those below it, by its path within."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _csv_rows(
    path: Path, required: Sequence[str], known: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table, and where each stands.

    Args:
        known: All columns that there may be; any, unless given.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            present = list(reader.fieldnames or ())
            if missing := [name for name in required if name not in present]:
                text = (
                    f"{path.name}: no column {', '.join(missing)}; expected {', '.join(required)}"
                )
                raise _bad(text)
            if known and (unknown := [name for name in present if name not in known]):
                text = f"{path.name}: unknown column {', '.join(unknown)}"
                raise _bad(f"{text}; there may be {', '.join(known)}")
            for row in reader:
                yield f"{path.name}, line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise _bad(f"{path.name} cannot be read: {error}") from error


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    text = "" if value is None else str(value).strip()
    if not text:
        raise _bad(f"{where}: no {name}")
    return text


def _label(text: str, where: str) -> bool:
    found = _LABELS.get(text.removesuffix(".0").lower())
    if found is None:
        raise _bad(f"{where}: relevant is 1 or 0, not {text!r}")
    return found


def _frozen(relevant: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    return {query: frozenset(images) for query, images in relevant.items()}


def _bad(message: str) -> ConfigError:
    return ConfigError(message, reason=Reason.BAD_ARGUMENT)


# What is drawn: node, camera and job, which a query may name beside what is seen.
_PLACES = (
    ("W021", "top", "Prairie"),
    ("W021", "bottom", "Prairie"),
    ("W07A", "left", "Wildfire"),
    ("W09B", "right", "Urban"),
    ("V042", "front", "Mobile"),
)
_SCENES: Mapping[str, Sequence[str]] = {
    "green-field": ("a green field under a blue sky", "grassy meadow", "pasture on a sunny day"),
    "night-lights": ("lights at night", "lamps in the dark", "street lights after midnight"),
    "snow-ridge": ("snow on a ridge", "snowy mountains in winter", "white snow on the ground"),
    "smoke-plume": ("a plume of smoke", "wildfire smoke", "something is burning"),
    "sunset": ("sunset", "orange sky at dusk", "warm evening sky"),
    "fog": ("fog", "misty and hazy", "nothing to see for fog"),
    "lake-shore": ("shore of a lake", "blue water", "waves on the sea"),
    "city-street": ("city street", "grey buildings with windows", "houses along a road"),
}
# A scene, and a place where it must have been taken.
_NAMED = (
    ("snow at W021", "snow-ridge", "W021"),
    ("smoke W07A", "smoke-plume", "W07A"),
    ("fog at W09B", "fog", "W09B"),
    ("sunset camera left", "sunset", "left"),
    ("lake, camera left", "lake-shore", "left"),
    ("night V042", "night-lights", "V042"),
    ("street in the urban job", "city-street", "Urban"),
    ("green field prairie", "green-field", "Prairie"),
    ("snow mobile node", "snow-ridge", "Mobile"),
    ("smoke seen by the bottom camera", "smoke-plume", "bottom"),
    ("fog by the top camera", "fog", "top"),
    ("W09B lights in the dark", "night-lights", "W09B"),
)
_SIGNS = ("FIRE DANGER: HIGH", "BRIDGE AHEAD", "STATION 7", "NO SWIMMING")


def draw_judged_images(folder: Path, count: int, advance: Advance = lambda written: None) -> None:
    """Draw images into a folder, with 40 queries whose answers follow from what was drawn.

    24 queries ask for a scene in several wordings, 12 for a scene with a node, camera or job, and 4
    for lettering in the picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, drawn = random.Random(_SEED), []
    for index in range(count):
        name, place = f"{index:04d}.jpg", rng.choice(_PLACES)
        path, style = folder / name, style_of(index, _SEED)
        if not path.exists():
            _write(path, draw(index, _SEED))
        drawn.append((name, style.scene, style.lettering, place))
        advance(index + 1)
    asked = [
        *((text, scene, None) for scene, texts in _SCENES.items() for text in texts),
        *_NAMED,
        *((sign.lower(), None, sign) for sign in _SIGNS),
    ]
    judgements = [
        (text, name, 1)
        for text, wanted, there in asked
        for name, scene, lettering, place in drawn
        if wanted in (None, scene) and there in (None, lettering, *place)
    ]
    _write_csv(folder / JUDGEMENTS, ("query", "image", "relevant"), judgements)
    about = [(name, *place) for name, _, _, place in drawn]
    _write_csv(folder / IMAGES, ("image", "vsn", "camera", "job"), about)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
