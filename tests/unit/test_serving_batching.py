"""What waits together runs together, and every item is answered, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import pytest

from inference.serving.batching import AbandonedError, Batcher

Answer = int | Exception
PATIENCE = 20.0


class Asked:
    """A model that doubles numbers, and what it was asked; it can be held."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.answers: dict[int, Answer] = {}
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def run(self, items: Sequence[int]) -> list[int]:
        self.entered.set()
        assert self.go.wait(PATIENCE)
        self.calls.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]

    def ask(self, batcher: Batcher[int, int], *items: int) -> None:
        for item in items:
            batcher.submit(item, partial(self.answers.__setitem__, item))


def batcher(
    model: Asked,
    size: int = 4,
    delay: float = 0.0,
    patience: float = 0.0,
    capacity: int = 64,
) -> Batcher[int, int]:
    return Batcher(model.run, size=size, delay=delay, patience=patience, capacity=capacity)


def held(model: Asked, **options: float) -> Batcher[int, int]:
    """A batcher whose model is busy with the item 0."""
    model.go.clear()
    made = batcher(model, **options)  # type: ignore[arg-type]
    model.ask(made, 0)
    assert model.entered.wait(PATIENCE)
    return made


def test_what_comes_while_a_call_runs_is_the_next_call_up_to_the_size() -> None:
    model = Asked()
    made = held(model, size=3)
    model.ask(made, 1, 2, 3, 4)
    model.go.set()
    made.close()
    assert model.calls == [[0], [1, 2, 3], [4]]
    assert model.answers == {item: 2 * item for item in range(5)}


def test_the_first_item_waits_for_others_until_the_call_is_full() -> None:
    model = Asked()
    made = batcher(model, size=2, delay=PATIENCE)
    model.ask(made, 1, 2)
    assert model.entered.wait(PATIENCE / 2)
    made.close()
    assert model.calls == [[1, 2]]


def test_a_lone_item_is_answered_after_the_delay() -> None:
    model, answered = Asked(), threading.Event()
    made = batcher(model, delay=0.01)
    made.submit(1, lambda _: answered.set())
    assert answered.wait(PATIENCE)
    made.close()


def trickle(model: Asked, made: Batcher[int, int], until: threading.Event, pause: float) -> int:
    """Ask for one number after another until ``until``; returns how many."""
    number = 0
    while not until.wait(pause):
        number += 1
        model.ask(made, number)
    return number


def test_a_call_gathers_items_while_they_keep_arriving() -> None:
    model = Asked()
    # Each comes long before the delay is over, all of them take longer than it.
    made = batcher(model, size=30, delay=PATIENCE / 20, patience=10 * PATIENCE)
    trickle(model, made, model.entered, PATIENCE / 400)
    made.close()
    assert len(model.calls[0]) == 30


def test_items_that_keep_arriving_hold_up_a_call_no_longer_than_its_patience() -> None:
    model = Asked()
    made = batcher(model, size=10_000, delay=0.2, patience=0.3)
    trickle(model, made, model.entered, 0.005)
    made.close()
    assert 1 < len(model.calls[0]) < 10_000


def test_all_that_wait_are_answered_when_it_closes_without_waiting_for_others() -> None:
    model = Asked()
    model.go.clear()
    made = batcher(model, size=2, delay=10 * PATIENCE)
    model.ask(made, 0, 1)
    assert model.entered.wait(PATIENCE)
    model.ask(made, 2, 3, 4)
    closing = threading.Thread(target=made.close)
    closing.start()
    model.go.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert model.answers == {item: 2 * item for item in range(5)}


def test_the_model_is_not_run_for_whoever_waits_no_longer() -> None:
    model, gone = Asked(), threading.Event()
    made = held(model, size=8)
    made.submit(1, partial(model.answers.__setitem__, 1), gone.is_set)
    model.ask(made, 2)
    gone.set()
    model.go.set()
    made.close()
    assert model.calls == [[0], [2]]
    assert isinstance(model.answers[1], AbandonedError)
    assert (model.answers[0], model.answers[2]) == (0, 4)


def test_an_item_at_fault_fails_alone() -> None:
    model = Asked()
    made = held(model, size=8)
    model.ask(made, 1, -1, 2)
    model.go.set()
    made.close()
    assert isinstance(model.answers[-1], ValueError)
    assert (model.answers[1], model.answers[2]) == (2, 4)


def test_a_model_that_gives_too_few_results_is_at_fault() -> None:
    answers: list[Answer] = []
    made: Batcher[int, int] = Batcher(lambda _: [], size=4, delay=0.0, patience=0.0, capacity=4)
    made.submit(1, answers.append)
    made.close()
    assert str(answers[0]) == "0 results for 1 items"


@pytest.mark.filterwarnings("ignore")
def test_a_reply_that_cannot_be_sent_keeps_nobody_else_from_theirs() -> None:
    model = Asked()
    made = held(model)

    def gone(_: Answer) -> None:
        raise ConnectionError

    made.submit(1, gone)
    model.ask(made, 2)
    model.go.set()
    made.close()
    assert model.answers == {0: 0, 2: 4}


def test_no_more_than_the_capacity_may_wait() -> None:
    model = Asked()
    made = held(model, capacity=1)
    model.ask(made, 1)
    third = threading.Thread(target=model.ask, args=(made, 2))
    third.start()
    third.join(0.05)
    assert third.is_alive()  # it waits: there is no room
    model.go.set()
    third.join(PATIENCE)
    made.close()
    assert model.answers == {0: 0, 1: 2, 2: 4}
