"""How well a search finds what was drawn: ``python -m benchmarks.search_quality``.

Real parts: the preview models in Triton, the embedded store, and a Weaviate where there is a
binary on PATH. Recall and rank are those of the models as much as of the stores: the preview
models know colours and little else, so only a comparison of stores and ways is meant.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tritonclient.grpc import InferenceServerClient

from commands.cli import run
from demo.search_quality import (
    ALPHAS,
    IMAGES,
    Answers,
    Drawn,
    Query,
    agreement,
    answers,
    described,
    drawn,
    embedders,
    quality,
    queries,
    stores,
)
from demo.servers.triton import Triton
from weavloader.store.base import ImageObject, Store

OUT = Path(__file__).resolve().parents[1] / "build" / "search-quality.json"
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: ("clip", {"alpha": alpha}) for name, alpha in ALPHAS.items()},
    "hybrid, ranked": ("clip", {"fusion": "ranked"}),
    "late interaction": ("colbert", {"alpha": 1.0, "vector_name": "colbert"}),
    "hybrid with late interaction": ("colbert", {"vector_name": "colbert"}),
}
KINDS = ("scene", "scene and name", "lettering")
_TIMEOUT = 60.0


@click.command()
@click.option("--images", type=click.IntRange(200), default=IMAGES, show_default=True)
def search_quality(images: int) -> None:
    """Store drawn images, ask what was drawn, and print recall@10 and MRR."""
    console = Console()
    pictures, asked = drawn(images), queries()
    with tempfile.TemporaryDirectory(prefix="weavloader-quality-") as name:
        folder = Path(name)
        with (
            Triton(folder / "triton.log") as triton,
            closing(InferenceServerClient(triton.url)) as client,
        ):
            objects = list(track(described(client, pictures), "Describing", total=images))
            with stores(folder, console) as opened:
                found = _search_all(opened, objects, asked, client)
    figures = _figures(found, asked, pictures)
    _show(console, figures)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=1) + "\n")
    console.print(f"Written to {OUT}", highlight=False)


def _search_all(
    opened: Mapping[str, Store],
    objects: Sequence[ImageObject],
    asked: Sequence[Query],
    client: InferenceServerClient,
) -> dict[str, dict[str, Answers]]:
    embed = embedders(client)
    found: dict[str, dict[str, Answers]] = {}
    for name, store in opened.items():
        store.prepare()
        store.upsert(objects)
        found[name] = {
            way: answers(store, asked, embed[vector], **options)
            for way, (vector, options) in WAYS.items()
        }
    return found


def _figures(
    found: Mapping[str, Mapping[str, Answers]], asked: Sequence[Query], pictures: Sequence[Drawn]
) -> dict[str, Any]:
    """By way: for each store its quality by kind of query, and how far the stores agree."""
    figures: dict[str, Any] = {"images": len(pictures), "queries": len(asked), "ways": {}}
    for way in WAYS:
        by_store = {name: by_way[way] for name, by_way in found.items()}
        figures["ways"][way] = {
            name: {"all": asdict(quality(each, asked, pictures))}
            | {kind: asdict(quality(each, _of(asked, kind), pictures)) for kind in KINDS}
            for name, each in by_store.items()
        }
        if len(by_store) == 2:
            figures["ways"][way]["agreement"] = agreement(*by_store.values())
    return figures


def _of(asked: Sequence[Query], kind: str) -> list[Query]:
    return [query for query in asked if query.kind == kind]


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    title = f"{figures['queries']} queries over {figures['images']} images: recall@10, MRR"
    table = Table(title=title, title_justify="left")
    for head in ("search", "store", "all", *KINDS, "same in the first ten"):
        table.add_column(head)
    for way, by_store in figures["ways"].items():
        shared = by_store.get("agreement")
        for name in (name for name in by_store if name != "agreement"):
            cells = (_cell(by_store[name][kind]) for kind in ("all", *KINDS))
            table.add_row(way, name, *cells, "" if shared is None else f"{shared:.1%}")
    console.print(table)


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['recall']:.2f}, {figure['mrr']:.2f}"


if __name__ == "__main__":
    run(search_quality)
