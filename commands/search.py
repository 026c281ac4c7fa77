"""Searching the store from the command line."""

from __future__ import annotations

import click

from commands.group import begin_tool, command


@command("search")
@click.argument("text")
@click.option("--vsn", help="Only images of this node.")
@click.option("--since", help="Only images captured since: 24h, 7d, or a date or time.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True,
              help="At most so many results.")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.4, show_default=True,
              help="0 searches by words, 1 by looks.")  # fmt: skip
@click.option("--vector", type=click.Choice(["clip", "align"]), default="clip", show_default=True,
              help="Which model's vectors say what looks alike.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON array on standard output.")
def search(
    text: str,
    vsn: str | None,
    since: str | None,
    limit: int,
    alpha: float,
    vector: str,
    as_json: bool,
) -> None:
    """Search the stored images for TEXT."""
    settings = begin_tool("search")
    from client import connect_embedder, open_store
    from weavloader import search as searching

    results = searching.search(
        open_store(settings),
        text,
        embed=connect_embedder(settings, vector),
        alpha=alpha,
        limit=limit,
        filters=searching.filters(vsn=vsn, since=since),
        vector_name=vector,
    )
    show = searching.print_json if as_json else searching.print_table
    show(results)
