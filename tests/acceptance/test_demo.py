"""The demo as a person runs it: with every kind of vector, and without Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from demo.cases import STORED
from demo.servers.waiting import wait_until
from tests.acceptance.programs import programs
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, ImageObject

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MODELS = {"EMBEDDING_MODELS": "clip,align,colbert", "CAPTION_MODEL": "florence2"}
ENDED_WELL = "All images have the expected outcome."
STAYS = "The system is running."


def stored(folder: Path) -> Iterator[ImageObject]:
    """What a demo that is still running has stored."""
    (path,) = folder.glob("weavloader-demo-*/store")
    store = connect_store(load_settings(vector_store="embedded", embedded_store_path=str(path)))
    for result in store.newest(Filters(), 1000):
        found = store.get(result.id)
        assert found is not None
        yield found
    store.close()


def test_the_demo_with_three_vectors_and_florences_captions_ends_well(tmp_path: Path) -> None:
    # Not tmp_path: the path of a socket may have a hundred characters.
    with TemporaryDirectory(prefix="demo-") as folder:
        environment = {**MODELS, "TMPDIR": folder}
        with programs({"demo": "python main.py demo --keep"}, environment, tmp_path) as started:
            demo = started["demo"]
            wait_until(lambda: STAYS in demo.said() or not demo.is_running(), "the demo", 300)
            assert ENDED_WELL in demo.said()
            images = list(stored(Path(folder)))
            assert f"{STORED}: {len(images)}" in demo.said()
            assert demo.ctrl_c() == 0
    assert len(images) > 10
    for image in images:
        shapes = {name: vector.shape[-1] for name, vector in image.vectors.items()}
        assert shapes == {"clip": 1024, "align": 640, "colbert": 128}
        description, _, labels = image.text["caption"].partition(" LABELS: ")
        assert description.startswith("DESCRIPTION: Preview caption: ")
        assert labels


def test_the_demo_without_triton_says_so_and_ends_well(tmp_path: Path) -> None:
    command = "python main.py demo --preview-server --images 8"
    with programs({"demo": command}, {}, tmp_path) as started:
        demo = started["demo"]
        wait_until(lambda: not demo.is_running(), "the demo", 300)
        assert ENDED_WELL in demo.said()
        assert "A small server of Triton's gRPC protocol serves the preview models" in demo.said()
