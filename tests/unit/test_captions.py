"""A caption that goes round in circles, or stops in the middle of a sentence, is trimmed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, values

from inference import florence2_gen_caption, gemma3_run_model, tensors
from inference.model_config import model_config
from inference.tensors import tidy_caption
from inference.trimming import whole_sentences
from metrics.metrics import Metrics
from tests.support.stand_in_triton import StandInClient, text

IMAGE = np.zeros((30, 40, 3), dtype=np.uint8)
SKY = "The sky is overcast with low clouds."
ROAD = "A wet road leads past a fence and a row of bare trees."
BARN = "Behind them stands a red barn, whose roof is covered with snow."
LONG = f"{SKY} {ROAD} {BARN} Two people in yellow coats walk a dog in the snow."


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """Where the captions count."""
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    registry = CollectorRegistry()
    monkeypatch.setattr(tensors, "metrics", Metrics(registry))
    return registry


def trimmed(registry: CollectorRegistry) -> dict[str, float]:
    """How many captions were trimmed, by cause."""
    return {
        cause: registry.get_sample_value("weavloader_captions_trimmed_total", {"cause": cause}) or 0
        for cause in ("repeated", "cut_off")
    }


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (" ".join([SKY] * 40), SKY),
        (f"{SKY} " + " ".join([ROAD] * 30), f"{SKY} {ROAD}"),
        (f"{BARN} " + f"{SKY} {ROAD} " * 20, f"{BARN} {SKY} {ROAD}"),
        (" ".join([SKY, *[ROAD] * 9]) + " A wet road leads pa", f"{SKY} {ROAD}"),
        (f"{SKY}\n{SKY}\n{SKY}\n{ROAD}", f"{SKY}\n{ROAD}"),
        (f"{SKY} " + SKY.upper() + " " + SKY.replace(",", ""), SKY),
        (f"{SKY} A fence, " + "and then a gate, " * 50 + "a tree.", None),
    ],
    ids=["one", "the last", "two in turn", "one more begun", "lines", "spellings", "words"],
)
def test_what_is_repeated_over_and_over_is_kept_once(
    answer: str, kept: str | None, counted: CollectorRegistry
) -> None:
    expected = f"{SKY} A fence, and then a gate, a tree." if kept is None else kept
    assert tidy_caption(answer.strip()) == expected
    assert trimmed(counted) == {"repeated": 1, "cut_off": 0}


@pytest.mark.parametrize("rest", ["On the left, a", "On the left, a bird sits on a wi", "Two"])
def test_a_caption_cut_off_within_a_sentence_ends_with_the_one_before(
    rest: str, counted: CollectorRegistry
) -> None:
    assert tidy_caption(f"{LONG} {rest}") == LONG
    assert tidy_caption(f'{LONG} A sign says "Stop!" {rest}') == f'{LONG} A sign says "Stop!"'
    assert trimmed(counted) == {"repeated": 0, "cut_off": 2}


@pytest.mark.parametrize(
    "answer",
    [
        "A road",
        "A road. Snow on a ridge",
        LONG,
        f"{LONG} {SKY}",
        f'{LONG} A sign says "Stop!"',
        f"{LONG} (It is dusk.)",
        "NO ENTRY " * 3,
        "No. " * 9,
        f"{LONG}\nIn the picture:\n- a road\n- a barn",
        "\n".join(f"- object {number} of the scene, by the road" for number in range(12)),
    ],
)
def test_any_other_caption_stays_as_it_is(answer: str, counted: CollectorRegistry) -> None:
    assert tidy_caption(answer.strip()) == answer.strip()
    assert trimmed(counted) == {"repeated": 0, "cut_off": 0}


def test_a_caption_beyond_the_limit_ends_with_a_whole_sentence(counted: CollectorRegistry) -> None:
    answer = " ".join(f"Tree number {number} is bare." for number in range(1000))
    kept = tidy_caption(answer)
    limit = model_config().caption_max_characters
    assert limit - 40 < len(kept) <= limit
    assert kept.endswith(" is bare.")
    assert answer.startswith(kept)
    assert trimmed(counted)["cut_off"] == 1


def test_a_caption_without_any_sentence_is_cut_at_the_limit(counted: CollectorRegistry) -> None:
    assert tidy_caption("a" * 100_000) == "a" * model_config().caption_max_characters


@pytest.mark.parametrize(
    "answer", ["a b " * 100_000, ". " * 200_000, "\n" * 100_000 + "x", "ab" * 4000]
)
def test_no_answer_takes_long_to_trim(answer: str, counted: CollectorRegistry) -> None:
    start = time.process_time()
    assert len(tidy_caption(answer)) <= model_config().caption_max_characters
    assert time.process_time() - start < 2


def test_whoever_serves_the_client_trims(counted: CollectorRegistry) -> None:
    loop = " ".join([SKY] * 9)
    client = StandInClient([{"answer": text(loop)}])
    assert gemma3_run_model(client, IMAGE, timeout=1) == SKY
    labels: dict[str, object] = {"bboxes": [], "labels": []}
    answers = {
        "<MORE_DETAILED_CAPTION>": loop,
        "<CAPTION_TO_PHRASE_GROUNDING>": labels,
        "<DENSE_REGION_CAPTION>": labels,
    }
    client = StandInClient(
        [{"answer": text(json.dumps({task: answer}))} for task, answer in answers.items()]
    )
    assert florence2_gen_caption(client, IMAGE, timeout=1) == f"DESCRIPTION: {SKY}"
    assert trimmed(counted)["repeated"] == 2


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (f"{SKY} A wet ro", SKY),
        (f"{SKY} {ROAD}", f"{SKY} {ROAD}"),
        ("A wet road leads past a fe", "A wet road leads past a fe"),
        (f"Fog. {ROAD.rstrip('.')} and", f"Fog. {ROAD.rstrip('.')} and"),
        ("", ""),
    ],
    ids=["begun", "whole", "none whole", "little whole", "nothing"],
)
def test_an_answer_known_to_be_cut_off_ends_with_its_last_whole_sentence(
    answer: str, kept: str
) -> None:
    assert whole_sentences(answer, len(answer), is_cut_off=True) == kept
