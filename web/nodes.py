"""The nodes: where images come from, on a map and as a list, of all images or of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from weavloader.errors import WeavloaderError
from weavloader.geo import Location
from weavloader.times import rfc3339
from web.arguments import Argument
from web.handler import PageHandler
from web.map import Dot, describe, draw_dots
from web.query import ARGUMENTS, PageQuery, as_given, parse_query, parse_strictly
from web.results import NodeCounts
from web.view_models import Card, known

# They choose among results, or order them.
_OF_RESULTS = ("page", "limit", "fold", "sort")


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the page shows it.

    Attributes:
        count: Its images among those that are asked for.
        address: Of these images.
        cameras: Name, images and address of each camera, the most frequent first.
        last: Its newest image; ``None`` where it is not known.
        project: Empty where it is not known, as is ``place``.
    """

    vsn: str
    count: int
    address: str
    cameras: list[tuple[str, int, str]]
    last: Card | None
    project: str
    place: str


class NodesPage(PageHandler):
    """``/nodes``: every node with images that match, on a map and as a list."""

    arguments = ARGUMENTS

    async def get(self) -> None:
        """Write the page."""
        try:
            query = replace(parse_query(self.get_query_arguments), page=1)
            nodes = await self.on_thread(self.context.searches.nodes, query)
        except WeavloaderError as error:
            status, message = self.error_of(error)
            self.set_status(status)
            return self._show(as_given(self.get_query_arguments), [], message)
        self._show(query, nodes)

    def _show(self, query: PageQuery, nodes: Sequence[NodeCounts] | None, error: str = "") -> None:
        dots = [_dot(node, node.location, query) for node in nodes or [] if node.location]
        self.render(
            "nodes.html",
            section="nodes",
            query=query,
            nodes=None if nodes is None else [_view(node, query) for node in nodes],
            map=draw_dots(dots) if dots else None,
            unplaced=sum(node.location is None for node in nodes or []),
            heading=_heading(query),
            error=error,
            json_address=query.program_address(
                "/api/nodes", **{name: ARGUMENTS[name].schema["default"] for name in _OF_RESULTS}
            ),
        )


class NodesApi(PageHandler):
    """``/api/nodes``: every node with images that match as JSON, those with most first."""

    arguments: ClassVar[Mapping[str, Argument]] = {
        name: each for name, each in ARGUMENTS.items() if name not in _OF_RESULTS
    }
    answers: ClassVar[Mapping[str, str]] = {"application/json": "Nodes"}

    async def get(self) -> None:
        """Write the nodes."""
        query = parse_strictly(self.all_arguments())
        nodes = await self.on_thread(self.context.searches.nodes, query)
        self.write({"nodes": None if nodes is None else [_json(node) for node in nodes]})


def _json(node: NodeCounts) -> dict[str, object]:
    """A node as JSON: hits in all and by camera, and its newest image, whatever is searched for."""
    last, place = node.last, node.location
    moment = last.captured_at if last else None
    return {
        "vsn": node.vsn,
        "images": node.count,
        "cameras": dict(node.cameras),
        "project": known(last.text.get("project", "")) if last else "",
        "location": {"latitude": place.latitude, "longitude": place.longitude} if place else None,
        "newest": {"id": last.id, "captured_at": rfc3339(moment) if moment else None}
        if last
        else None,
    }


def _heading(query: PageQuery) -> str:
    if query.text:
        return f"Nodes with matches for “{query.text}”"
    return "Nodes" if query.is_empty else "Nodes of these images"


def _view(node: NodeCounts, query: PageQuery) -> NodeView:
    cameras = [
        (name, count, query.address(vsn=node.vsn, camera=name))
        for name, count in node.cameras.items()
        if known(name)
    ]
    last = Card.of(node.last) if node.last else None
    place = describe(node.location) if node.location else ""
    project = known(node.last.text.get("project", "")) if node.last else ""
    address = query.address(vsn=node.vsn)
    return NodeView(node.vsn, node.count, address, cameras, last, project, place)


def _dot(node: NodeCounts, location: Location, query: PageQuery) -> Dot:
    return Dot(node.vsn, location, node.count, query.address(vsn=node.vsn))
