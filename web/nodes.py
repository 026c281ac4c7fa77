"""The nodes: where images come from, on a map and as a list, of all images or of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weavloader.errors import WeavloaderError
from weavloader.geo import Location
from web.handler import PageHandler
from web.map import Dot, describe, draw_dots
from web.query import PageQuery, as_given, parse_query
from web.results import NodeCounts
from web.view_models import Card, known


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
        )


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
