"""The command `mcp`: search, images and status for an assistant."""

from __future__ import annotations

from contextlib import closing

from commands.cli import begin_tool, command


@command("mcp")
def mcp() -> None:
    """Offer `search`, `image` and `status` to an assistant as tools (MCP).

    A client of the Model Context Protocol starts it, and speaks to it over standard input and
    output. Nothing is changed by it.
    """
    settings = begin_tool("mcp")
    from web.assistant import serve
    from web.image_service import ImageService
    from web.search_service import SearchService

    with (
        closing(ImageService(settings)) as images,
        closing(SearchService(settings, images)) as searches,
    ):
        serve(settings, images, searches)
