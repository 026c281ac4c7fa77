"""The nodes of the demo's world: where they stand, and what their manifests leave out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from demo.sage_replay.catalogue import SECOND, Entry
from demo.sage_replay.times import rfc3339

_POSITION_STEP = 30
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
EXCLUDED_NODE = DemoNode("W0FF", "000048b02d0ff0ff", "top", {"project": "Private"})


def manifests() -> dict[str, dict[str, object]]:
    """Every manifest, by VSN."""
    known = (*NODES, EXCLUDED_NODE)
    return {node.vsn: {"vsn": node.vsn, **node.manifest} for node in known if node.manifest}


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
