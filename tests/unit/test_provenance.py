"""Which model made what is recorded, and kept as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from inference import triton
from inference.models.captions import florence2_gen_caption, gemma3_run_model
from inference.registry import embedding_model
from tests.support.drawn_pictures import green_field
from tests.support.stand_in_triton import StandInClient, text
from weavloader.errors import TransientError
from weavloader.provenance import (
    Provenance,
    ServedModel,
    from_json,
    from_text,
    record_call,
    to_text,
    traced,
    vector_models,
)

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


@dataclass(eq=False)
class TellingClient(StandInClient):
    """A server that tells the parameters of its models."""

    told: dict[str, str] | Exception = field(default_factory=dict)
    asked: int = 0

    def get_model_config(self, model: str, client_timeout: float) -> Any:
        """As the real client's."""
        assert client_timeout > 0
        self.asked += 1
        if isinstance(self.told, Exception):
            raise self.told
        parameters = {name: SimpleNamespace(string_value=each) for name, each in self.told.items()}
        return SimpleNamespace(config=SimpleNamespace(parameters=parameters))

    def ask(self) -> Provenance:
        """The provenance of a caption by gemma3, asked ``Why?``."""
        client = cast(InferenceServerClient, self)
        return traced(lambda: gemma3_run_model(client, green_field(), "Why?", timeout=1))[1]


def a_client(told: dict[str, str] | Exception) -> TellingClient:
    """A server that answers ``A field.`` to everything."""
    return TellingClient([{"answer": text("A field.")}], told=told)


def test_a_caption_says_what_the_server_tells_of_its_model() -> None:
    made_by = a_client({"weights": "google/gemma-3-4b-it", "revision": "abc"}).ask()
    assert (made_by.model, made_by.revision) == ("google/gemma-3-4b-it", "abc")
    assert made_by.prompt == "Why?"
    assert made_by.made_at is not None
    assert abs((datetime.now(UTC) - made_by.made_at).total_seconds()) < 60


@pytest.mark.parametrize(
    "told", [{}, InferenceServerException("not implemented", status="StatusCode.UNIMPLEMENTED")]
)
def test_a_server_that_tells_nothing_leaves_the_name_of_the_model(
    told: dict[str, str] | Exception,
) -> None:
    made_by = a_client(told).ask()
    assert (made_by.model, made_by.revision) == ("gemma3", "unknown")


def test_the_server_is_asked_once_and_not_for_each_image() -> None:
    client = a_client({"weights": "a"})
    assert {client.ask().model for _ in range(5)} == {"a"}
    assert client.asked == 1


def test_a_server_that_was_replaced_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client = a_client({"weights": "a"})
    client.ask()
    answers, client.told = client.answers, {"weights": "b"}
    client.answers = [InferenceServerException("away", status="StatusCode.UNAVAILABLE")]
    with pytest.raises(TransientError):
        client.ask()
    client.answers = answers
    assert client.ask().model == "b"
    client.told = {"weights": "c"}
    monkeypatch.setattr(triton, "REREAD_SECONDS", -1.0)
    assert client.ask().model == "c"
    client.told = InferenceServerException("away", status="StatusCode.UNAVAILABLE")
    assert client.ask().model == "c"


def test_a_call_that_nobody_traces_asks_nothing() -> None:
    client = a_client({})
    gemma3_run_model(cast(InferenceServerClient, client), green_field(), timeout=1)
    assert client.asked == 0


def test_florence_says_all_of_its_tasks() -> None:
    answers: list[Any] = [
        {"answer": text('{"<MORE_DETAILED_CAPTION>": "a field"}')},
        {"answer": text('{"<CAPTION_TO_PHRASE_GROUNDING>": {"labels": []}}')},
        {"answer": text('{"<DENSE_REGION_CAPTION>": {"labels": []}}')},
    ]
    client = cast(InferenceServerClient, TellingClient(answers, told={"weights": "f"}))
    _, made_by = traced(lambda: florence2_gen_caption(client, green_field(), timeout=1))
    assert made_by.model == "f"
    assert made_by.prompt.splitlines() == [
        "<MORE_DETAILED_CAPTION>",
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "<DENSE_REGION_CAPTION>",
    ]


def test_several_models_are_all_named() -> None:
    def both() -> None:
        record_call(lambda: ServedModel("a", "1"))
        record_call(lambda: ServedModel("b", "1"), "Why?")

    _, made_by = traced(both)
    assert (made_by.model, made_by.revision, made_by.prompt) == ("a + b", "1", "Why?")


def test_what_no_model_is_recorded_for_is_unknown() -> None:
    made, made_by = traced(lambda: 3)
    assert (made, made_by.model, made_by.is_preview) == (3, "unknown", False)


def test_it_reads_back_as_it_was_written() -> None:
    made_by = {"caption": Provenance("preview/gemma3", "1", "é\n", NOON), "clip": Provenance()}
    assert from_text(to_text(made_by)) == made_by
    assert made_by["caption"].is_preview
    assert vector_models(made_by, ["colbert", "clip"]) == ["clip=unknown", "colbert=unknown"]


@pytest.mark.parametrize("damaged", ["", None, "{", "[]", "[" * 100_000, '{"caption": 3}'])
def test_what_cannot_be_read_is_unknown(damaged: str | None) -> None:
    assert from_text(damaged) == {}


@pytest.mark.parametrize("made_at", ["noon", "2026-11-26T12:00:00", 7])
def test_a_time_that_is_none_is_not_taken_for_one(made_at: object) -> None:
    assert from_json({"caption": {"model": "a", "made_at": made_at}}) == {}


def test_no_vector_is_called_caption() -> None:
    def never(*_: object, **__: object) -> Any: ...

    with pytest.raises(ValueError, match="caption"):
        cast(Callable[[Any], Any], embedding_model("caption"))(never)
