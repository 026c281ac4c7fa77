"""Answers of the caption models: what is kept, and what is a failed inference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inference import (
    florence2_gen_caption,
    gemma3_run_model,
    qwen2_5_run_model,
)
from inference.model_config import model_config
from tests.support.stand_in_triton import StandInClient, Tensor, text
from weavloader.errors import TransientError

IMAGE = np.zeros((30, 40, 3), dtype=np.uint8)


def gemma_says(answer: str | bytes) -> str:
    return gemma3_run_model(StandInClient([{"answer": text(answer)}]), IMAGE, timeout=1)


@pytest.mark.parametrize(
    "answer",
    [
        "ERROR in generate: CUDA out of memory",
        "UNEXPECTED ERROR: 'NoneType' object",
        " \n\tERROR in processor",
        "\0ERROR in processor",
        "",
        " \n ",
        "\0\0",
    ],
)
def test_an_error_or_a_blank_answer_is_a_failed_inference(answer: str) -> None:
    with pytest.raises(TransientError) as caught:
        gemma_says(answer)
    assert caught.value.reason == "model_error"


@pytest.mark.parametrize(
    "caption", ["A sign reads ERROR in red.", "error in the sky", "Errors in a row", "x"]
)
def test_a_caption_that_only_mentions_an_error_is_kept(caption: str) -> None:
    assert gemma_says(caption) == caption


def test_qwen_reports_failures_the_same_way() -> None:
    with pytest.raises(TransientError):
        qwen2_5_run_model(StandInClient([{"answer": text("ERROR in x")}]), IMAGE, timeout=1)


def test_control_characters_become_spaces_and_line_breaks_stay() -> None:
    assert gemma_says(" a\0b\x1b[31m\x85c\n\td\r\n") == "a b [31m c\n\td"


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert gemma_says(b"caf\xe9 at dusk") == "caf\N{REPLACEMENT CHARACTER} at dusk"


def test_a_caption_is_bounded() -> None:
    assert len(gemma_says("a" * 100_000)) == model_config().caption_max_characters


@pytest.mark.parametrize(
    "tensor", [np.array([1.0], np.float32), np.array([b"a", b"b"], np.object_)]
)
def test_an_answer_that_is_not_one_string_is_a_failed_inference(tensor: Tensor) -> None:
    with pytest.raises(TransientError) as caught:
        gemma3_run_model(StandInClient([{"answer": tensor}]), IMAGE, timeout=1)
    assert caught.value.reason == "bad_answer"


def test_an_output_that_is_missing_is_a_failed_inference() -> None:
    with pytest.raises(TransientError) as caught:
        gemma3_run_model(StandInClient([{}]), IMAGE, timeout=1)
    assert caught.value.reason == "bad_answer"


def florence_client(description: object, grounding: object, regions: object) -> StandInClient:
    answers = {
        "<MORE_DETAILED_CAPTION>": description,
        "<CAPTION_TO_PHRASE_GROUNDING>": grounding,
        "<DENSE_REGION_CAPTION>": regions,
    }
    return StandInClient(
        [{"answer": text(json.dumps({task: answer}))} for task, answer in answers.items()]
    )


def labelled(*labels: str) -> dict[str, list[object]]:
    return {"bboxes": [[0, 0, 1, 1]] * len(labels), "labels": list(labels)}


def test_a_florence_caption_is_a_description_and_labels_named_once() -> None:
    client = florence_client("A road.", labelled("road", "sky"), labelled("Sky", "a car", " "))
    caption = florence2_gen_caption(client, IMAGE, timeout=1)
    assert caption == "DESCRIPTION: A road. LABELS: road, sky, a car"


def test_a_florence_caption_without_labels_is_the_description() -> None:
    client = florence_client("A road.", labelled(), labelled())
    assert florence2_gen_caption(client, IMAGE, timeout=1) == "DESCRIPTION: A road."


def test_florence_grounds_the_description_it_gave() -> None:
    client = florence_client("A road.", labelled(), labelled())
    florence2_gen_caption(client, IMAGE, timeout=1)
    assert client.sent[1]["text_input"]._get_content().endswith(b"A road.")


def test_the_calls_of_a_florence_caption_share_one_timeout() -> None:
    client = florence_client("A road.", labelled(), labelled())
    florence2_gen_caption(client, IMAGE, timeout=1)
    first, second, third = client.timeouts
    assert 1 >= first > second > third > 0


@pytest.mark.parametrize("description", ["", " ", "ERROR in generate: CUDA out of memory"])
def test_a_failure_told_as_florences_description_is_a_failed_inference(description: str) -> None:
    client = florence_client(description, labelled(), labelled())
    with pytest.raises(TransientError, match="florence2base: ") as caught:
        florence2_gen_caption(client, IMAGE, timeout=1)
    assert caught.value.reason == "model_error"
    assert len(client.sent) == 1


@pytest.mark.parametrize(
    "answers",
    [
        (None, labelled(), labelled()),
        ("A road.", "a string", labelled()),
        ("A road.", labelled(), {"labels": None}),
    ],
)
def test_a_malformed_florence_answer_is_a_failed_inference(answers: tuple[object, ...]) -> None:
    with pytest.raises(TransientError) as caught:
        florence2_gen_caption(florence_client(*answers), IMAGE, timeout=1)
    assert caught.value.reason == "bad_answer"


@pytest.mark.parametrize("answer", ["not JSON", "[]", '{"<OTHER>": 1}', "3"])
def test_a_florence_answer_not_keyed_by_its_task_is_a_failed_inference(answer: str) -> None:
    with pytest.raises(TransientError) as caught:
        florence2_gen_caption(StandInClient([{"answer": text(answer)}]), IMAGE, timeout=1)
    assert caught.value.reason == "bad_answer"
