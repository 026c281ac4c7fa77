"""The demo's dataset: its nodes, every image that will be published, and its expected outcome.

The same arguments give the same dataset, so that the replay and the outcome checker agree on it
without exchanging anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo import pictures
from demo.cases import CASES, ROUND, Case, Outcome, Record
from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, StoredObject, rfc3339

_POSITION_STEP = 30
SEED = 7
# Seconds by which late files follow their records after the first round of a long run.
LONG_DELAY = 60.0
TASK = "imagesampler-mobotix"
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


_POSITIONS_BEFORE, _POSITIONS_AFTER = 600, 3600


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A node of the network.

    Attributes:
        manifest: What SAGE knows of it; ``None`` when it has no manifest.
        drives: It is mobile and reports its position.
    """

    vsn: str
    node: str
    camera: str
    manifest: dict[str, object] | None
    drives: bool = False


NODES = (
    DemoNode(
        "W021",
        "000048b02d15bc7c",
        "top",
        {"project": "Prairie", "address": "Lemont, IL", "gps_lat": 41.7016, "gps_lon": -87.9953},
    ),
    DemoNode(
        "W07A",
        "000048b02d3ae2e3",
        "left",
        {"project": "Wildfire", "address": None, "gps_lat": 40.0149, "gps_lon": -105.2705},
    ),
    DemoNode(
        "W09B",
        "000048b02d35a873",
        "bottom",
        {"project": None, "address": "Chicago, IL", "gps_lat": None, "gps_lon": None},
    ),
    DemoNode(
        "V042", "000048b02dd3c3a2", "front", {"project": "Mobile", "address": ""}, drives=True
    ),
    DemoNode("W0EE", "000048b02df00d11", "right", None),
)
FORBIDDEN_NODE = DemoNode("W0DE", "000048b02d0dedee", "left", {"project": "Elsewhere"})
EXCLUDED_NODE = DemoNode("W0FF", "000048b02d0ff0ff", "top", {"project": "Private"})


def manifests() -> dict[str, dict[str, object]]:
    """Every manifest, by VSN."""
    known = (*NODES, FORBIDDEN_NODE, EXCLUDED_NODE)
    return {
        node.vsn: {"vsn": node.vsn, "name": node.node.upper(), **node.manifest}
        for node in known
        if node.manifest
    }


def positions(began: int) -> Iterator[Entry]:
    """Where the mobile nodes are around ``began`` (nanoseconds), twice a minute."""
    for node in (node for node in NODES if node.drives):
        meta = {"vsn": node.vsn, "node": node.node, "plugin": "gps"}
        for seconds in range(-_POSITIONS_BEFORE, _POSITIONS_AFTER, _POSITION_STEP):
            at = began + seconds * SECOND
            for name, value in (("lat", 41.8 + seconds * 1e-5), ("lon", -87.6)):
                record = {
                    "timestamp": rfc3339(at),
                    "name": f"sys.gps.{name}",
                    "value": value,
                    "meta": meta,
                }
                yield Entry(record, at)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image of the dataset.

    Attributes:
        name: Its file name.
        kind: Its case, a name of :data:`demo.cases.CASES`.
        vsn: The node that took it, whatever the record says.
        record: Its record in the stream.
        link: The record's value when that is a link, else where it would have been.
        path: Where the file lies on its host.
        expected: Its expected outcome; ``None`` for a file of the user's.
        entries: Its record as the replay lists it, once or twice.
        file: ``None`` when its host has no such file.
    """

    name: str
    kind: str
    vsn: str
    record: Record
    link: str
    path: str
    expected: Outcome | None
    entries: tuple[Entry, ...]
    file: StoredObject | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of a demo, as a function of these values.

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

    def images_in_order(self) -> list[PlannedImage]:
        """Every image, in the order of publication."""
        of_the_user = [
            self._image(self.images + i, "your picture", f) for i, f in enumerate(self._files())
        ]
        return [
            self._image(index, ROUND[index % len(ROUND)], None) for index in range(self.images)
        ] + of_the_user

    def catalogue(self) -> Catalogue:
        """What a replay of this dataset holds."""
        images = self.images_in_order()
        on_sage = [image for image in images if not CASES[image.kind].is_foreign]
        elsewhere = [image for image in images if CASES[image.kind].is_foreign]
        entries = [entry for image in images for entry in image.entries]
        return Catalogue(
            entries=[*entries, *positions(self.began), *_other_sensors(self.began)],
            objects={image.path: image.file for image in on_sage if image.file},
            foreign_objects={image.path: image.file for image in elsewhere if image.file},
            manifests=manifests(),
            forbidden_nodes={FORBIDDEN_NODE.node},
        )

    def _files(self) -> Sequence[Path]:
        found = sorted(self.images_dir.iterdir()) if self.images_dir else []
        return [file for file in found if file.suffix.lower() in PICTURE_SUFFIXES]

    def _image(self, index: int, kind: str, file: Path | None) -> PlannedImage:
        case = CASES[kind]
        node = _node(index, kind, case)
        name = case.rename(_name(index, file))
        at = _capture(self.began, index, kind)
        path = f"sage/sage-{TASK}-0.3.5/{node.node}/{at}-{name}"
        host = f"{self.other_host}/" if case.is_foreign else f"{self.storage}/api/v1/data/"
        link = f"http://{host}{path}"
        record = case.mutate_record(_record(at, link, node, name))
        entries = tuple(self._entries(record, at, index, case))
        return PlannedImage(
            name=name,
            kind=kind,
            vsn=node.vsn,
            record=record,
            link=link,
            path=path,
            expected=case.expected,
            entries=entries,
            file=self._file(case, index, file, entries[0]) if case.has_file else None,
        )

    def _file(self, case: Case, index: int, file: Path | None, record: Entry) -> StoredObject:
        content = _content(index, file)
        arrives_after = record.publish_after + self._delay(case, index)
        return StoredObject(lambda: case.mutate_file(content()), case.is_redirected, arrives_after)

    def _delay(self, case: Case, index: int) -> float:
        """Seconds from a record to its file; in a dataset published at once, all is there."""
        if not self.publish_seconds:
            return 0.0
        if case.file_delay is None:
            return (0.0, 1.0, 0.0, 3.0)[index % 4]
        return case.file_delay if index < len(ROUND) else LONG_DELAY

    def _entries(self, record: Record, at: int, index: int, case: Case) -> Iterator[Entry]:
        share = min(index + 1, self.images) / max(self.images, 1)
        for time in range(case.times):
            late = time / case.times * (1 - share)
            yield Entry(record, at, self.publish_seconds * (share + late))


def _name(index: int, file: Path | None) -> str:
    return file.name if file else f"{pictures.style_of(index, SEED).scene}-{index:03d}.jpg"


def _content(index: int, file: Path | None) -> Callable[[], bytes]:
    return file.read_bytes if file else lambda: pictures.draw(index, SEED)


def _node(index: int, kind: str, case: Case) -> DemoNode:
    if case.is_excluded or case.is_forbidden:
        return EXCLUDED_NODE if case.is_excluded else FORBIDDEN_NODE
    # Two images of one node share a second; two nodes share an instant.
    return NODES[(index // 2 if kind == "same second" else index) % len(NODES)]


def _capture(began: int, index: int, kind: str) -> int:
    pair = index // 2 * 2
    second = began // SECOND - CASES[kind].age - (pair if kind.startswith("same") else index) % 60
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
    """Records of other sensors, as most of a real stream is."""
    meta = {"vsn": NODES[0].vsn, "node": NODES[0].node, "task": "iio", "sensor": "bme680"}
    for seconds in range(0, 600, 60):
        at = began - seconds * SECOND
        record = {"timestamp": rfc3339(at), "name": "env.temperature", "value": 21.5, "meta": meta}
        yield Entry(record, at)
