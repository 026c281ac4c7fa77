"""The demo's world: every image that will be published, in what way, and its expected fate.

The same arguments give the same world, so that the replay and the account agree on it without
a word between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo import pictures
from demo.cases import PARTS, ROUND, Fate, Part, Record
from demo.nodes import NODES, DemoNode, manifests, positions
from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, StoredObject
from demo.sage_replay.times import rfc3339

SEED = 7
TASK = "imagesampler-mobotix"
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image of the world.

    Attributes:
        name: Its file name.
        kind: What is special about it, a name of :data:`demo.cases.PARTS`.
        vsn: The node that took it, whatever the record says.
        record: Its record in the stream.
        link: The record's value when that is a link, else where it would have been.
        path: Where the file lies on its host.
        expected: Its fate; ``None`` when nobody can know, since the file is the user's.
        entries: Its record as the replay lists it, once or twice.
        file: ``None`` when its host has none.
    """

    name: str
    kind: str
    vsn: str
    record: Record
    link: str
    path: str
    expected: Fate | None
    entries: tuple[Entry, ...]
    file: StoredObject | None


@dataclass(frozen=True, slots=True)
class World:
    """A world, by what it follows from.

    Attributes:
        storage: ``host:port`` of the replay.
        other_host: ``host:port`` of the host that is not SAGE's.
        began: Nanoseconds since the epoch; the newest captures are a little older.
        images: How many images are drawn.
        publish_seconds: Over how long they are published.
        images_dir: Pictures of the user's, published besides the drawn ones.
    """

    storage: str
    other_host: str
    began: int
    images: int
    publish_seconds: float
    images_dir: Path | None = None

    def plan(self) -> list[PlannedImage]:
        """Every image, in the order of publication."""
        yours = [self._image(self.images + i, "yours", f) for i, f in enumerate(self._files())]
        return [
            self._image(index, ROUND[index % len(ROUND)], None) for index in range(self.images)
        ] + yours

    def catalogue(self) -> Catalogue:
        """What a replay of this world holds."""
        images = self.plan()
        at_home = [image for image in images if not PARTS[image.kind].is_foreign]
        abroad = [image for image in images if PARTS[image.kind].is_foreign]
        entries = [entry for image in images for entry in image.entries]
        return Catalogue(
            entries=[*entries, *positions(self.began), *_other_sensors(self.began)],
            objects={image.path: image.file for image in at_home if image.file},
            foreign_objects={image.path: image.file for image in abroad if image.file},
            manifests=manifests(),
        )

    def _files(self) -> Sequence[Path]:
        found = sorted(self.images_dir.iterdir()) if self.images_dir else []
        return [file for file in found if file.suffix.lower() in PICTURE_SUFFIXES]

    def _image(self, index: int, kind: str, file: Path | None) -> PlannedImage:
        part = PARTS[kind]
        node = part.node or _node(index, kind)
        name = _name(index, file)
        at = _capture(self.began, index, kind)
        path = f"sage/sage-{TASK}-0.3.5/{node.node}/{at}-{name}"
        host = f"{self.other_host}/" if part.is_foreign else f"{self.storage}/api/v1/data/"
        link = f"http://{host}{path}"
        record = part.spoil(_record(at, link, node, name))
        return PlannedImage(
            name=name,
            kind=kind,
            vsn=node.vsn,
            record=record,
            link=link,
            path=path,
            expected=part.fate,
            entries=tuple(self._entries(record, at, index, part)),
            file=_stored(part, _content(index, file)) if part.has_file else None,
        )

    def _entries(self, record: Record, at: int, index: int, part: Part) -> Iterator[Entry]:
        share = min(index + 1, self.images) / max(self.images, 1)
        for time in range(part.times):
            late = time / part.times * (1 - share)
            yield Entry(record, at, self.publish_seconds * (share + late))


def _name(index: int, file: Path | None) -> str:
    return file.name if file else f"{pictures.look(index, SEED).scene}-{index:03d}.jpg"


def _content(index: int, file: Path | None) -> Callable[[], bytes]:
    return file.read_bytes if file else lambda: pictures.draw(index, SEED)


def _stored(part: Part, content: Callable[[], bytes]) -> StoredObject:
    return StoredObject(lambda: part.alter(content()), part.is_redirected)


def _node(index: int, kind: str) -> DemoNode:
    # Two images of one node share a second; two nodes share an instant.
    return NODES[(index // 2 if kind == "same second" else index) % len(NODES)]


def _capture(began: int, index: int, kind: str) -> int:
    pair = index // 2 * 2
    second = began // SECOND - PARTS[kind].age - (pair if kind.startswith("same") else index) % 60
    if kind == "same instant":
        return second * SECOND + 500_000_000
    return second * SECOND + 500_000_000 + index


def _record(at: int, link: str, node: DemoNode, name: str) -> Record:
    return {
        "timestamp": rfc3339(at),
        "name": "upload",
        "value": link,
        "meta": {
            "vsn": node.vsn,
            "node": node.node,
            "host": f"{node.node}.ws-nxcore",
            "job": "sage",
            "plugin": f"registry.sagecontinuum.org/theone/{TASK}:0.3.5",
            "task": TASK,
            "zone": "core",
            "camera": node.camera,
            "filename": name,
        },
    }


def _other_sensors(began: int) -> Iterator[Entry]:
    """Records that are no images: the stream is full of them."""
    meta = {"vsn": NODES[0].vsn, "node": NODES[0].node, "task": "iio", "sensor": "bme680"}
    for seconds in range(0, 600, 60):
        at = began - seconds * SECOND
        record = {"timestamp": rfc3339(at), "name": "env.temperature", "value": 21.5, "meta": meta}
        yield Entry(record, at)
