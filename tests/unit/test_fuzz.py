"""The fuzzers find nothing in what they have always tried, and what is wrong where it is."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
from click.testing import CliRunner

from tests.fuzz import __main__ as program
from tests.fuzz import mutate
from tests.fuzz.fuzzer import Attempt, Fuzzer, expected, generator, wrong_with
from weavloader.errors import PermanentError, Reason, TransientError

ATTEMPTS = 25


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", program.FUZZERS)
def test_the_first_attempts_of_each_find_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)  # set back what it replaces
    with program.FUZZERS[name].open() as attempt:
        for number in range(ATTEMPTS):
            assert not wrong_with(attempt, generator(1, name, number))


def test_the_same_seed_makes_the_same_inputs() -> None:
    def inputs(seed: int) -> list[bytes]:
        return [mutate.written(generator(seed, "x", n), {"a": [1, "b"]}) for n in range(50)]

    assert inputs(1) == inputs(1) != inputs(2)


@contextmanager
def faulty() -> Iterator[Attempt]:
    """Attempts of which some are wrong, each in another way."""
    kept: list[bytes] = []

    def attempt(rng: Random) -> None:
        number = len(kept)
        kept.append(b"")
        if number == 2:
            raise KeyError("none of ours")
        if number == 3:
            with expected(PermanentError):
                raise TransientError("elsewhere", reason=Reason.OUT_OF_MEMORY)
        if number == 4:
            kept.append(b"x" * (500 << 20))
        if number == 5:
            os.kill(os.getpid(), signal.SIGSEGV)

    yield attempt


@contextmanager
def deadly() -> Iterator[Attempt]:
    """An attempt that ends its process."""
    yield lambda _: os.kill(os.getpid(), signal.SIGSEGV)


@contextmanager
def endless() -> Iterator[Attempt]:
    """An attempt that goes on."""
    yield lambda _: time.sleep(60)


@pytest.mark.parametrize(
    ("open_", "silence", "found"),
    [
        (faulty, 60.0, ["KeyError", "TransientError", "MiB"]),
        (deadly, 60.0, ["its process ended: -11"]),
        (endless, 1.0, ["it goes on for more than"]),
    ],
)
def test_a_finding_names_what_is_wrong_and_makes_it_again(
    open_: object, silence: float, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(program.FUZZERS, "records", Fuzzer(open_, mebibytes=500))  # type: ignore[arg-type]
    monkeypatch.setattr(program, "MAX_SILENCE_SECONDS", silence)
    until = time.monotonic() + 60
    lines = program._run("records", 7, until, lambda _: None)
    texts = []
    for line in lines:
        assert line["again"].startswith("python -m tests.fuzz records --seed 7 --at ")
        texts.append(line["text"])
        if len(texts) == len(found):
            break
    assert all(word in text for word, text in zip(found, texts, strict=True))


def test_one_attempt_is_made_again_by_its_number() -> None:
    said = CliRunner().invoke(program.fuzz, ["records", "--seed", "3", "--at", "5"])
    assert (said.exit_code, said.output) == (0, "nothing found\n")
