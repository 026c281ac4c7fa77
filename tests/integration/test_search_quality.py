"""`make quality` as a program: real servers, the real pipeline, images with known answers."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from tritonclient.grpc import InferenceServerClient

from demo.judged_images import draw_judged_images, read_judged_images
from demo.pictures import draw
from demo.search_quality import Figures, measure
from demo.servers.triton import Triton
from inference import embedder
from weavloader.search import search
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import SearchQuery, SearchResult, Store

ROOT = Path(__file__).parents[2]
SECONDS = 600
HYBRID = "hybrid, alpha 0.4"
# With the preview models and 240 images: 0.619, 0.739 and 0.877 as of November 2026.
LEAST_NDCG = {"text only": 0.57, "vector only, clip": 0.69, HYBRID: 0.83}


@dataclass(frozen=True, slots=True)
class Program:
    """Runs the command, with the models of a Triton."""

    triton: Triton
    out: Path

    def __call__(self, *arguments: str | Path) -> tuple[dict[str, Any], str]:
        """The figures that it wrote, and all that it said."""
        environment = {
            **os.environ,
            "TRITON_HOST": self.triton.host,
            "TRITON_PORT": str(self.triton.ports.grpc),
            "PREVIEW_MODELS": "true",
            "KEEP_OBJECTS": "1d",  # a site's, which judged images are older than
        }
        command = ["-m", "benchmarks.search_quality", *map(str, arguments), "--out", str(self.out)]
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(self.out.read_text()), done.stdout + done.stderr


@pytest.fixture
def program(triton: Triton, tmp_path: Path) -> Program:
    return Program(triton, tmp_path / "out" / "figures.json")


def write_csv(path: Path, *rows: Sequence[object]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


# Pictures 0, 8, 16 show a field, 1, 9, 17 the night, 2, 10, 18 snow.
FIELD, NIGHT = "a green field under a blue sky", "lights at night"


@pytest.mark.timeout(SECONDS)
def test_a_file_in_the_format_of_inquire_is_measured(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "inquire"
    (data / "train" / "0001_Animalia").mkdir(parents=True)
    names = [f"train/0001_Animalia/{index}?#%41.jpg" for index in range(11)]
    for index, name in enumerate(names):
        (data / name).write_bytes(draw(index, 11))
    (data / names[10]).write_bytes(b"no picture")
    head = ("", "query_id", "query_text", "supercategory", "category", "iconic_group")
    write_csv(
        data / "inquire_queries_val.csv",
        head,
        (0, 7, FIELD, "", "", ""),
        (1, 8, NIGHT, "", "", ""),
        (2, 9, "a mongoose", "", "", ""),
    )
    annotations = [(7, 0, names[0]), (7, 8, names[8]), (8, 1, names[1]), (8, 9, names[9])]
    write_csv(
        data / "inquire_annotations.csv", ("query_id", "image_id", "image_path"), *annotations
    )
    figures, said = program(data)
    assert figures["ways"][HYBRID] == {
        "ndcg_10": 1.0,
        "ndcg_50": 1.0,
        "recall_50": 1.0,
        "precision_50": 0.2,  # two of the ten that could be stored
        "returned_ndcg": 1.0,
    }
    assert "1 images could not be stored and are not found: not_an_image" in said
    assert (figures["images"], figures["failed"]) == (10, {"not_an_image": 1})
    assert (figures["queries"], figures["queries_without_relevant_images"]) == (2, 1)
    assert [*figures["caption_models"]] == ["preview/gemma3"]
    assert f"| {HYBRID} " in said


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_a_data_set_of_imsearch_eval_is_measured(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    # Each image comes with one query: fields with that for a field, all others with that for night.
    asked = [FIELD if index % 8 == 0 else NIGHT for index in range(10)]
    table = {
        "query_id": [1 if query == FIELD else 2 for query in asked],
        "query": asked,
        "relevant": [int(index % 8 < 2) for index in range(10)],
        "inat24_image_id": [*range(10)],
        "image": [{"bytes": draw(index, 11), "path": f"{index}.jpg"} for index in range(10)],
    }
    parquet.write_table(pyarrow.table(table), data / "test-00000-of-00001.parquet")
    figures, _ = program(tmp_path, "--split", "test", "--keep", tmp_path / "kept")
    found = figures["ways"][HYBRID]
    assert (found["ndcg_50"], found["recall_50"], found["precision_50"]) == (1.0, 1.0, 0.2)
    # Four of ten results are relevant by their own rows, and two of them to another query.
    assert 0.7 < found["returned_ndcg"] < 1.0

    again, said = program(data, "--keep", tmp_path / "kept")
    assert "10 of 10 images are stored already" in said
    assert again["ways"] == figures["ways"]


class Backwards:
    """A store whose ranking is broken: the best result comes last."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def search(self, query: SearchQuery) -> list[SearchResult]:
        return self._store.search(query)[::-1]


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_the_drawn_images_are_found_by_both_stores_and_a_broken_ranking_is_seen(
    program: Program,
    triton_client: InferenceServerClient,
    weaviate_settings: Settings,
    tmp_path: Path,
) -> None:
    figures, _ = program("--keep", tmp_path)
    for way, least in LEAST_NDCG.items():
        assert figures["ways"][way]["ndcg_50"] >= least

    judged = read_judged_images(tmp_path / "drawn", None, tmp_path)
    embed = partial(embedder("clip"), triton_client, image=None, timeout=60.0)
    own = load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "store"))
    with closing(connect_store(own)) as store, closing(connect_store(weaviate_settings)) as other:
        objects = [image for _, image in store.scan(images=False) if image]
        names = {image.id: image.text["filename"] for image in objects}

        broken = measure(Backwards(store), judged, names, {"clip": embed})  # type: ignore[arg-type]
        figures_of_broken = Figures.mean([*broken[HYBRID].values()])
        assert figures_of_broken.ndcg_50 < figures["ways"][HYBRID]["ndcg_50"] - 0.2
        assert figures_of_broken.recall_50 == pytest.approx(figures["ways"][HYBRID]["recall_50"])

        other.prepare()
        for first in range(0, len(objects), 40):
            other.upsert(objects[first : first + 40])
        for alpha in (0.0, 0.4, 1.0):
            ask = partial(search, embed=embed, alpha=alpha, limit=10)
            found = [
                [{result.id for result in ask(each, query)} for query in judged.relevant]
                for each in (store, other)
            ]
            assert agreement(*found) >= 0.95


def agreement(one: list[set[str]], other: list[set[str]]) -> float:
    """The share of results that both found, on average over queries with any."""
    pairs = [(ours, theirs) for ours, theirs in zip(one, other, strict=True) if ours or theirs]
    return sum(len(a & b) / max(len(a), len(b)) for a, b in pairs) / len(pairs)


def test_the_command_refuses_a_folder_without_starting_a_server(tmp_path: Path) -> None:
    draw_judged_images(tmp_path, 2)
    (tmp_path / "0001.jpg").unlink()
    command = [sys.executable, "-m", "benchmarks.search_quality", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no image 0001.jpg in " in done.stderr
