"""Batches of the served models: off by a setting, bounded in time, ended without a loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from tritonclient.grpc import InferenceServerClient

from inference.serving.batching import AbandonedError
from tests.models.calls import call, valid
from tests.models.test_served_models import same
from tools.served_models import only, serve
from weavloader.errors import TransientError

pytestmark = [pytest.mark.models, pytest.mark.timeout(400)]

CALLERS = 16
HOUR_MS = str(3600 * 1000)


def test_a_full_batch_does_not_wait_and_is_one_call(weights: Path, tmp_path: Path) -> None:
    repository = only("colbert", tmp_path / "models")
    settings = {"COLBERT_BATCH_SIZE": str(CALLERS), "COLBERT_BATCH_DELAY_MS": HOUR_MS}
    with serve(weights, tmp_path / "log", settings, repository) as server:
        client = InferenceServerClient(server.url)
        with ThreadPoolExecutor(CALLERS) as pool:
            asked = [valid("colbert", number) for number in range(CALLERS)]
            # Fewer would wait for an hour: that they are answered shows that they ran as one.
            assert len(list(pool.map(lambda inputs: call(client, "colbert", inputs), asked))) == 16
        client.close()


def test_embeddings_of_compiled_pieces_are_those_of_plain_ones(
    weights: Path, tmp_path: Path
) -> None:
    found = {}
    for setting in ("off", "on"):
        log, settings = tmp_path / setting, {"CLIP_COMPILE_PIECES": setting, "CLIP_BATCH_SIZE": "4"}
        repository = only("clip", tmp_path / f"models_{setting}")
        with serve(weights, log, settings, repository) as server, ThreadPoolExecutor(6) as pool:
            client = InferenceServerClient(server.url)
            asked = [valid("clip", number) for number in range(12)]
            found[setting] = list(pool.map(partial(call, client, "clip"), asked))
            client.close()
        assert ("compiled pieces of the model in " in log.read_text()) == (setting == "on")
    assert all(same(*pair) for pair in zip(found["off"], found["on"], strict=True))


def test_with_batches_of_one_nobody_waits(weights: Path, tmp_path: Path) -> None:
    repository = only("colbert", tmp_path / "models")
    settings = {"MODELS_BATCH_SIZE": "1", "MODELS_BATCH_DELAY_MS": HOUR_MS}
    with serve(weights, tmp_path / "log", settings, repository) as server:
        client = InferenceServerClient(server.url)
        assert call(client, "colbert", valid("colbert"))
        client.close()


def test_a_lone_request_pays_the_delay_and_no_more_than_that_for_it(
    weights: Path, tmp_path: Path
) -> None:
    repository = only("colbert", tmp_path / "models")
    settings = {"COLBERT_BATCH_DELAY_MS": "700"}
    with serve(weights, tmp_path / "log", settings, repository) as server:
        client = InferenceServerClient(server.url)
        began = time.monotonic()
        assert call(client, "colbert", valid("colbert"))
        assert time.monotonic() - began >= 0.7
        client.close()


@pytest.mark.parametrize("size", ["1", "16"])
def test_nothing_is_run_for_a_caller_who_gave_up(size: str, weights: Path, tmp_path: Path) -> None:
    repository, log = only("gemma3", tmp_path / "models"), tmp_path / "log"
    # In slots, who comes second waits for nobody.
    settings = {"GEMMA3_SLOTS": "1", "GEMMA3_BATCH_SIZE": size, "GEMMA3_MAX_NEW_TOKENS": "400"}
    with serve(weights, log, settings, repository) as server, ThreadPoolExecutor(CALLERS) as pool:
        client = InferenceServerClient(server.url)
        seconds = duration(lambda: call(client, "gemma3", valid("gemma3")))
        first = pool.submit(call, client, "gemma3", valid("gemma3"))
        time.sleep(seconds / 8)
        # They wait for the first, and no longer than a quarter of its time.
        hasty = [
            pool.submit(call, client, "gemma3", valid("gemma3"), timeout=seconds / 8)
            for _ in range(5)
        ]
        assert all(isinstance(each.exception(60), TransientError) for each in hasty)
        assert first.result(60)
        assert call(client, "gemma3", valid("gemma3"))
        client.close()
    assert log.read_text().count(str(AbandonedError())) == 5


def duration(work: Callable[[], object]) -> float:
    """Seconds that something takes the second time."""
    work()
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_a_server_that_stops_answers_or_refuses_every_caller(weights: Path, tmp_path: Path) -> None:
    server = serve(weights, tmp_path / "log", repository=only("colbert", tmp_path / "models"))
    all_answered = Barrier(CALLERS + 1)
    with server, ThreadPoolExecutor(CALLERS) as pool:
        client = InferenceServerClient(server.url)
        right = [call(client, "colbert", valid("colbert", number)) for number in range(CALLERS)]

        def ask_until_refused(number: int) -> int:
            for times in range(1_000_000):
                try:
                    answer = call(client, "colbert", valid("colbert", number))
                except TransientError:
                    return times
                assert same(right[number], answer)
                if times == 0:
                    all_answered.wait(60)
            raise AssertionError("it never stopped")

        callers = [pool.submit(ask_until_refused, number) for number in range(CALLERS)]
        all_answered.wait(60)
        server.stop()
        assert all(caller.result(60) > 0 for caller in callers)
        client.close()
