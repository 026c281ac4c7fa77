"""Slots are kept busy, and every request is answered, whatever happens to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from inference.serving.batching import AbandonedError
from inference.serving.slot_server import SlotServer

Answer = str | Exception
PATIENCE = 20.0


class Full(Exception):
    """There is no memory left."""


class Incomparable(str):
    """As an item that holds an array."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, _: object) -> bool:
        raise ValueError


class Writer:
    """Answers a word with the word, a letter a step; it can be held between steps.

    Attributes:
        groups: What was read together.
        room: How many words fit into memory; more raise an error.
        longest: A word as long as this fits into no slot.
    """

    def __init__(self, slots: int = 4, room: int = 10_000) -> None:
        self.slots = slots
        self.room = room
        self.longest = 100
        self.groups: list[list[str]] = []
        self.steps: list[set[int]] = []
        self.stopped: list[int] = []
        self.written: dict[int, str] = {}
        self.words: dict[int, str] = {}
        self.answers: dict[str, Answer] = {}
        self.go = threading.Event()
        self.go.set()
        self.stepped = threading.Event()

    def fits(self, item: str) -> bool:
        return len(item) < self.longest

    def whole(self, item: str) -> str:
        if "!" in item:
            raise ValueError(item)
        return item

    def start(self, slots: Sequence[int], items: Sequence[str]) -> None:
        if any("!" in item for item in items):
            raise ValueError(items)
        if len(slots) + len(self.words) > self.room:
            raise Full
        assert not set(slots) & set(self.words)
        assert max(slots) < self.slots
        self.groups.append(list(items))
        self.words.update(zip(slots, map(str, items), strict=True))
        self.written.update(dict.fromkeys(slots, ""))

    def advance(self, occupied: Sequence[int]) -> None:
        self.stepped.set()
        assert self.go.wait(PATIENCE)
        assert set(occupied) == set(self.words)
        self.steps.append(set(occupied))
        for slot in occupied:
            word = self.words[slot]
            self.written[slot] += word[len(self.written[slot])]
            if self.written[slot].endswith("?"):
                raise RuntimeError("the model broke")

    def ended(self, occupied: Sequence[int]) -> list[int]:
        return [slot for slot in occupied if self.written[slot] == self.words[slot]]

    def results(self, slots: Sequence[int]) -> list[Callable[[], str]]:
        return [partial(self._made, self._taken(slot)) for slot in slots]

    def _made(self, word: str) -> str:
        if "#" in word:
            raise ValueError(word)
        return word

    def stop(self, slot: int) -> None:
        self.stopped.append(slot)
        self._taken(slot)

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, Full)

    def shrink(self) -> bool:
        if self.slots == 1:
            return False
        self.slots //= 2
        self.words.clear()
        return True

    def _taken(self, slot: int) -> str:
        return self.words.pop(slot)

    def ask(self, server: SlotServer[str, str], *items: str) -> None:
        for item in items:
            server.submit(item, partial(self.answers.__setitem__, item))


def serve(writer: Writer, group: int = 4, capacity: int = 64) -> SlotServer[str, str]:
    return SlotServer(writer, group=group, delay=0.0, patience=0.0, capacity=capacity)


def held(writer: Writer, *items: str, **options: int) -> SlotServer[str, str]:
    """A server in the middle of the first answer to ``items``."""
    writer.go.clear()
    server = serve(writer, **options)
    writer.ask(server, *items)
    assert writer.stepped.wait(PATIENCE)
    return server


def test_answers_end_when_they_end_and_the_next_takes_the_slot() -> None:
    writer = Writer(slots=2)
    server = held(writer, "aaaaaaaa")
    writer.ask(server, "b", "cc", "ddd")
    writer.go.set()
    server.close()
    assert writer.answers == {word: word for word in ("aaaaaaaa", "b", "cc", "ddd")}
    # One after the other beside the long one, not after it.
    assert len(writer.steps) == len("aaaaaaaa")


def test_what_waits_is_read_together_as_far_as_slots_are_free() -> None:
    writer = Writer(slots=4)
    server = held(writer, "aaaa", group=2)
    writer.ask(server, "bb", "cc", "dd", "ee")
    writer.go.set()
    server.close()
    assert writer.groups == [["aaaa"], ["bb", "cc"], ["dd"], ["ee"]]


def test_requests_gather_while_nothing_is_under_way() -> None:
    writer = Writer(slots=4)
    server = SlotServer(writer, group=3, delay=PATIENCE, patience=PATIENCE, capacity=64)
    writer.ask(server, "a", "b", "c")
    assert writer.stepped.wait(PATIENCE / 2)
    server.close()
    assert writer.groups == [["a", "b", "c"]]


def test_slots_that_become_free_are_filled_together() -> None:
    writer = Writer(slots=2)
    server = SlotServer(writer, group=2, delay=PATIENCE, patience=PATIENCE, capacity=64)
    writer.go.clear()
    writer.ask(server, "aaa", "bbbbb")
    assert writer.stepped.wait(PATIENCE)
    writer.ask(server, "x", "y")
    writer.go.set()
    # The first free slot waits for the second, which another request could fill as well.
    while "y" not in writer.answers:
        time.sleep(0.001)
    server.close()
    assert writer.groups == [["aaa", "bbbbb"], ["x", "y"]]


def test_beside_an_answer_a_request_waits_for_others_no_longer_than_its_patience() -> None:
    writer, answered = Writer(slots=4), threading.Event()
    writer.longest = 1_000_000
    server = SlotServer(writer, group=4, delay=0.0, patience=0.05, capacity=64)
    writer.ask(server, "a" * 100_000)
    assert writer.stepped.wait(PATIENCE)

    def answer(_: Answer) -> None:
        assert not writer.answers  # the long one is still under way
        answered.set()

    server.submit("b", answer)
    server.close()
    assert answered.is_set()


@pytest.mark.parametrize("bad", ["!", "!" * 200])
def test_an_item_at_fault_fails_alone(bad: str) -> None:
    writer = Writer()
    server = held(writer, "aaa", group=3)
    writer.ask(server, "b", bad, "c")
    writer.go.set()
    server.close()
    assert isinstance(writer.answers.pop(bad), ValueError)
    assert writer.answers == {"aaa": "aaa", "b": "b", "c": "c"}


def test_an_answer_that_cannot_be_made_of_its_tokens_fails_alone() -> None:
    writer = Writer()
    server = held(writer, "aaa")
    writer.ask(server, "b#", "cc")
    writer.go.set()
    server.close()
    assert isinstance(writer.answers.pop("b#"), ValueError)
    assert writer.answers == {"aaa": "aaa", "cc": "cc"}


def test_replies_are_sent_while_the_next_step_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer, replied = Writer(), threading.Event()
    ended = writer.ended

    def wait_for_the_reply(occupied: Sequence[int]) -> list[int]:
        assert len(writer.steps) == 1 or replied.wait(PATIENCE)
        return ended(occupied)

    monkeypatch.setattr(writer, "ended", wait_for_the_reply)
    server = SlotServer(writer, group=2, delay=PATIENCE, patience=PATIENCE, capacity=64)
    writer.ask(server, "bb")
    server.submit("a", lambda _: replied.set())
    server.close()
    assert writer.answers == {"bb": "bb"}
    assert len(writer.steps) == len("bb")


def test_an_item_that_fits_into_no_slot_is_answered_whole() -> None:
    writer = Writer()
    server = held(writer, "aaa")
    for word in ("c", "b" * 200):
        server.submit(Incomparable(word), partial(writer.answers.__setitem__, word))
    writer.go.set()
    server.close()
    assert {name: len(str(answer)) for name, answer in writer.answers.items()} == {
        "aaa": 3,
        "c": 1,
        "b" * 200: 200,
    }
    assert [len(group) for group in writer.groups] == [1, 1]


def test_a_step_that_fails_fails_its_requests_and_no_later_ones() -> None:
    writer = Writer(slots=2)
    server = held(writer, "aa", "b?", group=2)
    writer.ask(server, "cc")
    writer.go.set()
    server.close()
    assert writer.answers.pop("cc") == "cc"
    assert {str(answer) for answer in writer.answers.values()} == {"the model broke"}


def test_the_slot_of_a_caller_who_gave_up_is_free_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.serving.slot_server._ABANDONED_SECONDS", 0.0)
    writer, gone = Writer(slots=1), threading.Event()
    writer.go.clear()
    server = serve(writer)
    server.submit("a" * 90, partial(writer.answers.__setitem__, "long"), gone.is_set)
    assert writer.stepped.wait(PATIENCE)
    server.submit("b" * 90, partial(writer.answers.__setitem__, "late"), gone.is_set)
    writer.ask(server, "c")
    gone.set()
    writer.go.set()
    server.close()
    assert writer.stopped == [0]
    assert len(writer.steps) == 1 + len("c")
    assert str(writer.answers["long"]) == "stopped: the caller has given up"
    assert isinstance(writer.answers["late"], AbandonedError)
    assert str(writer.answers["late"]) == "not run: the caller has given up"
    assert writer.answers["c"] == "c"


def test_without_memory_there_are_half_the_slots_and_everyone_begins_again() -> None:
    writer = Writer(slots=8, room=3)
    server = held(writer, "aaa")
    words = ["bb", "cc", "dd", "ee", "ff"]
    writer.ask(server, *words)
    writer.go.set()
    server.close()
    assert writer.answers == {word: word for word in ("aaa", *words)}
    assert writer.slots == 2


def test_without_memory_for_one_the_request_fails_and_the_server_goes_on() -> None:
    writer = Writer(slots=2, room=0)
    server = serve(writer)
    failed = threading.Event()
    server.submit("a", lambda answer: failed.set() if isinstance(answer, Full) else None)
    assert failed.wait(PATIENCE)
    writer.room = 1
    writer.ask(server, "b")
    server.close()
    assert writer.answers == {"b": "b"}
    assert writer.slots == 1


@pytest.mark.filterwarnings("ignore")
def test_a_reply_that_cannot_be_sent_keeps_nobody_else_from_theirs() -> None:
    writer = Writer()
    server = held(writer, "aa")

    def gone(_: Answer) -> None:
        raise ConnectionError

    server.submit("b", gone)
    writer.ask(server, "c")
    writer.go.set()
    server.close()
    assert writer.answers == {"aa": "aa", "c": "c"}


@pytest.mark.filterwarnings("ignore")
def test_a_fault_beside_the_model_leaves_nobody_without_an_answer() -> None:
    writer = Writer()
    server = held(writer, "aa")

    def broken() -> bool:
        raise KeyError("unknown caller")

    server.submit("b", partial(writer.answers.__setitem__, "b"), broken)
    writer.go.set()
    server.close()
    assert isinstance(writer.answers["b"], KeyError)
    assert "aa" in writer.answers


def test_no_more_than_the_capacity_may_wait() -> None:
    writer = Writer(slots=1)
    server = held(writer, "aa", capacity=1)
    writer.ask(server, "b")
    third = threading.Thread(target=writer.ask, args=(server, "c"))
    third.start()
    third.join(0.05)
    assert third.is_alive()  # it waits: there is no room
    writer.go.set()
    third.join(PATIENCE)
    server.close()
    assert writer.answers == {"aa": "aa", "b": "b", "c": "c"}
