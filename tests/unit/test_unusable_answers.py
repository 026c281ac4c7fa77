"""What no model should have answered is tried again, then a dead letter, and never stored."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import fakeredis
import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from inference import CAPTIONERS, EMBEDDERS, captioner, embedder, required_models
from job_system.circuit_breaker import CircuitBreaker
from job_system.tasks import processor
from processing import Pipeline
from tests.support.stand_in_triton import StandInResult, Tensor, text
from weavloader.circuits import Circuits
from weavloader.dlq.queue import DeadLetters
from weavloader.images.decode import DecodeLimits
from weavloader.images.download import Downloader
from weavloader.images.inference_cache import InferenceCache
from weavloader.images.job import ImageJob, image_id
from weavloader.images.nodes import Node, Nodes
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import load_settings
from weavloader.store.base import ImageObject, Store
from weavloader.times import FOR_EVER

JOB = ImageJob(
    url="https://storage.sagecontinuum.org/a.jpg", timestamp="2026-11-24T01:57:56Z", vsn="W021"
)
Outputs = Mapping[str, Tensor]
DIMENSIONS = {"clip": 1024, "align": 640}
REGIONS = {"labels": ["a road"], "bboxes": [[0, 0, 1, 1]]}


def row(*shape: int, value: float = 1.0, first: float = 1.0) -> Tensor:
    """float32 of a shape, one value but for the first."""
    tensor = np.full(shape, value, np.float32)
    tensor.flat[0] = first
    return tensor


def colbert(vectors: Tensor, tokens: int) -> Outputs:
    return {"embedding": vectors, "token_lengths": np.array([tokens], np.int32)}


def florence(task: str) -> Outputs:
    said = "A road." if task == "<MORE_DETAILED_CAPTION>" else REGIONS
    return {"answer": text(json.dumps({task: said}))}


@dataclass(eq=False)
class Models:
    """A client of Triton whose models answer well, but for those in ``bad``."""

    bad: dict[str, Outputs] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def infer(self, model: str, inputs: list[Any], **_: Any) -> StandInResult:
        """As the real client's."""
        self.asked.append(model)
        return StandInResult(self.bad[model] if model in self.bad else self._good(model, inputs))

    def get_model_config(self, model: str, **_: Any) -> Any:
        """As the real client's, of a server that tells nothing of itself."""
        raise InferenceServerException(f"no configuration of {model}")

    def _good(self, model: str, inputs: list[Any]) -> Outputs:
        if model == "florence2base":
            # Behind the four bytes of its length.
            (task,) = (each._get_content()[4:] for each in inputs if each.name() == "prompt")
            return florence(task.decode())
        if model == "colbert":
            return colbert(row(1, 3 * 128), 2)
        if model in DIMENSIONS:
            vector = row(1, DIMENSIONS[model])
            return {"text_embedding": vector, "image_embedding": vector}
        return {"answer": text("A road.")}


class Site:
    """The task of an image, with all around it; what is stored is in ``stored``."""

    def __init__(self, caption: str, vectors: list[str]) -> None:
        self.models = Models()
        self.redis = cast(Any, fakeredis.FakeRedis())
        self.letters = DeadLetters(self.redis, 1000)
        self.stored: dict[str, ImageObject] = {}
        client = cast(Any, self.models)
        self.pipeline = Pipeline(
            store=cast(Store, self),
            downloader=cast(Downloader, self),
            nodes=cast(Nodes, self),
            caption=partial(captioner(caption), client, timeout=1),
            embed={name: partial(embedder(name), client, timeout=1) for name in vectors},
            cache=InferenceCache(self.redis, "models"),
            limits=DecodeLimits(pixels=1000, bytes=10**8, wanted_pixels=1000),
            let_go=LetGo(FOR_EVER, DeletedImages(self.redis), str),
        )

    def existing(self, links: Iterable[str]) -> set[str]:
        """Those of the links that are stored."""
        return {link for link in links if image_id(link) in self.stored}

    def upsert(self, objects: Sequence[ImageObject]) -> None:
        """Store."""
        self.stored |= {each.id: each for each in objects}

    def fetch(self, url: str, node: str | None) -> bytes:
        """A small picture."""
        Image.new("RGB", (6, 4), "green").save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()

    def describe(self, vsn: str, captured_at: object) -> Node:
        """No node that anybody knows."""
        return Node("", "", None)

    def process(self) -> None:
        """Run the image's task, with its retries one after another."""
        processor.process_image_task.apply((JOB.to_message(),), task_id=JOB.id)


@pytest.fixture
def site(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site with the caption model and the embedding models of the test's parameter."""
    made = Site(*request.param)
    monkeypatch.setattr(processor, "pipeline", lambda: made.pipeline)
    monkeypatch.setattr(processor, "dead_letters", lambda: made.letters)
    monkeypatch.setattr("job_system.dependencies.dead_letters", lambda: made.letters)
    monkeypatch.setattr(processor, "redis_client", lambda: made.redis)
    # Triton answers the probe: it is the model that is at fault.
    breaker = CircuitBreaker(
        Circuits(made.redis, 5, 420), made.redis, {"triton": lambda: None}, bool
    )
    monkeypatch.setattr(processor, "circuit_breaker", lambda: breaker)
    # Celery's own record of a failure, which needs a server.
    monkeypatch.setattr(processor.process_image_task, "store_errors_even_if_ignored", False)
    return made


NOT_WORDS: Mapping[str, Outputs] = {
    "an error": {"answer": text("ERROR in generate: CUDA out of memory")},
    "an unexpected error": {"answer": text("UNEXPECTED ERROR: 'NoneType'")},
    "an indented error": {"answer": text("\n ERROR in processor")},
    "nothing": {"answer": text("")},
    "blanks": {"answer": text(" \n\t")},
    "control characters": {"answer": text("\0\x1b")},
    "a number": {"answer": np.ones(1, np.float32)},
    "no string": {"answer": np.array([], np.object_)},
    "no output": {},
}
NOT_FLORENCE: Mapping[str, Outputs] = {"not JSON": {"answer": text("A road.")}} | {
    f"{name} within JSON": {"answer": text(json.dumps({"<MORE_DETAILED_CAPTION>": said}))}
    for name, said in {
        "an error": "ERROR in generate: CUDA out of memory",
        "nothing": "",
        "null": None,
        "NaN": float("nan"),
    }.items()
}


def not_vectors(dimension: int) -> dict[str, Tensor]:
    """What is no vector of a dimension."""
    return {
        "NaN": row(1, dimension, first=np.nan),
        "infinite": row(1, dimension, first=np.inf),
        "zero": row(1, dimension, value=0.0, first=0.0),
        "too long": row(1, dimension + 1),
        "too short": row(1, dimension - 1),
        "empty": row(1, 2)[:, :0],
        "flat": row(dimension),
        "two": row(2, dimension),
        "float64": row(1, dimension).astype(np.float64),
        "text": text("ERROR in encode"),
    }


NOT_TOKENS: Mapping[str, Outputs] = {
    "NaN": colbert(row(1, 256, first=np.nan), 2),
    "infinite": colbert(row(1, 256, first=np.inf), 2),
    "a token of zeros": colbert(np.zeros((1, 256), np.float32), 2),
    "no tokens": colbert(row(1, 256), 0),
    "fewer tokens than none": colbert(row(1, 256), -1),
    "more tokens than vectors": colbert(row(1, 256), 3),
    "64 dimensions": colbert(row(1, 64 * 2), 2),
    "129 dimensions": colbert(row(1, 129 * 2), 2),
    "flat": colbert(row(256), 2),
    "words for lengths": {"embedding": row(1, 256), "token_lengths": text("2")},
    "float64": colbert(row(1, 256).astype(np.float64), 2),
    "no lengths": {"embedding": row(1, 256)},
    "no output": {},
}


def cases() -> Iterator[Any]:
    """A configuration, the model at fault, and its answer."""
    for name in CAPTIONERS:
        (served, _) = required_models(name, ["clip"])
        also = NOT_FLORENCE if name == "florence2" else {}
        for kind, outputs in {**NOT_WORDS, **also}.items():
            yield pytest.param((name, ["clip"]), served, outputs, id=f"{name} says {kind}")
    for name in EMBEDDERS:
        models = ("gemma3", ["clip", "align", "colbert"])
        for kind, outputs in _not_embeddings(name):
            yield pytest.param(models, name, outputs, id=f"{name} gives {kind}")


def _not_embeddings(name: str) -> Iterator[tuple[str, Outputs]]:
    if name == "colbert":
        yield from NOT_TOKENS.items()
        return
    good = row(1, DIMENSIONS[name])
    for kind, bad in not_vectors(DIMENSIONS[name]).items():
        yield f"{kind} of the image", {"text_embedding": good, "image_embedding": bad}
        yield f"{kind} of the text", {"text_embedding": bad, "image_embedding": good}
    yield "no output", {"text_embedding": good}


@pytest.mark.parametrize(("site", "model", "outputs"), [*cases()], indirect=["site"])
def test_an_unusable_answer_is_retried_then_a_dead_letter_and_never_stored(
    site: Site, model: str, outputs: Outputs
) -> None:
    site.models.bad = {model: outputs}
    site.process()
    assert site.stored == {}
    letter = site.letters.get(JOB.id)
    assert letter is not None
    assert letter.reason in {"model_error", "bad_answer", "bad_embedding"}
    assert model in letter.exc_message
    assert letter.retries == load_settings().max_retries
    assert site.models.asked.count(model) == letter.retries + 1

    site.models.bad = {}
    site.process()
    assert site.letters.get(JOB.id) is None
    stored = site.stored[JOB.id]
    assert "A road." in stored.text["caption"]
    assert all(np.isfinite(vector).all() for vector in stored.vectors.values())
    assert set(stored.vectors) == set(site.pipeline.embed)
