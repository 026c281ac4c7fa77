"""``python -m tests.fuzz``: run the fuzzers in turn, each in a process of its own.

A finding is an error that is none of ours, or that its place does not expect; an input that takes
too much time or memory, or ends its process; a message or a record that is lost.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import click

from tests.fuzz import answers, inputs, visitors
from tests.fuzz.fuzzer import Finding, Fuzzer, generator, run, wrong_with

FUZZERS = {
    "images": Fuzzer(inputs.images, mebibytes=800),
    "records": Fuzzer(inputs.records),
    "messages": Fuzzer(inputs.messages),
    "events": Fuzzer(inputs.events),
    "dead_letters": Fuzzer(inputs.dead_letters),
    "exports": Fuzzer(inputs.exports),
    "saved_searches": Fuzzer(inputs.saved_searches),
    "data_api": Fuzzer(answers.data_api),
    "storage": Fuzzer(answers.storage),
    "manifests": Fuzzer(answers.manifests),
    "captioner": Fuzzer(answers.captioner),
    "triton": Fuzzer(answers.triton),
    "weaviate": Fuzzer(answers.weaviate),
    "visitors": Fuzzer(visitors.visitors, mebibytes=800),
}
FINDINGS = Path("build/fuzz.jsonl")
# On a busy machine; the bound of one attempt is tighter, in seconds of the processor.
MAX_SILENCE_SECONDS = 120.0
MAX_KINDS = 20
_POLL_SECONDS = 0.2
_SPAWN = multiprocessing.get_context("spawn")
_VARIABLE = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(FUZZERS)))
@click.option("--minutes", default=2.0, show_default=True, help="For all fuzzers together.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same inputs.")
@click.option("--at", "number", type=int, help="Make this attempt alone, in this process.")
def fuzz(names: Sequence[str], minutes: float, seed: int, number: int | None) -> None:
    """Damages what comes in, and checks what is made of it. NAMES are those of fuzzers."""
    chosen = names or list(FUZZERS)
    if number is not None:
        for name in chosen:
            with FUZZERS[name].open() as attempt:
                click.echo(wrong_with(attempt, generator(seed, name, number)) or "nothing found")
        return
    found = 0
    FINDINGS.parent.mkdir(parents=True, exist_ok=True)
    with FINDINGS.open("w", buffering=1) as file:
        for name in chosen:
            until = time.monotonic() + 60 * minutes / len(chosen)
            for line in _run(name, seed, until, click.echo):
                found += 1
                file.write(json.dumps(line) + "\n")
                click.echo(f"{line['again']}\n{line['text']}")
    click.echo(f"{found} findings{f', see {FINDINGS}' if found else ''}")
    sys.exit(1 if found else 0)


def _run(
    name: str, seed: int, until: float, say: Callable[[str], None]
) -> Iterator[dict[str, str]]:
    """Run one fuzzer for a while; of findings of one kind the first is given."""
    kinds: set[str] = set()
    first, began = 0, time.monotonic()
    while time.monotonic() < until and len(kinds) < MAX_KINDS:
        # One process after another: the last one has ended, or was ended.
        for finding in _attempts(name, seed, first, until):
            first = finding.number + 1
            kind = _kind(finding.text)
            if finding.text and kind not in kinds:
                kinds.add(kind)
                again = f"python -m tests.fuzz {name} --seed {seed} --at {finding.number}"
                yield {"again": again, "text": finding.text}
    seconds = time.monotonic() - began
    say(f"{name:13} {first:9,} attempts in {seconds:5.0f} s, {len(kinds)} findings")


def _attempts(name: str, seed: int, first: int, until: float) -> Iterator[Finding]:
    """What a process finds until it ends or the time is over; an empty finding is the last."""
    current = _SPAWN.Value("q", first)
    findings, sent = _SPAWN.Pipe(duplex=False)
    # No daemon: the pages have children of their own.
    process = _SPAWN.Process(target=run, args=(name, FUZZERS[name], seed, first, current, sent))
    process.start()
    sent.close()
    try:
        text = yield from _watched(process, findings, current, until)
    finally:
        process.kill()
        process.join()
    yield Finding(current.value, text)


def _watched(
    process: BaseProcess, findings: Connection, current: Synchronized[int], until: float
) -> Generator[Finding, None, str]:
    """What a process finds; gives what is wrong with the last attempt."""
    seen, since = current.value, time.monotonic()
    while time.monotonic() < until:
        with suppress(EOFError):
            if findings.poll(_POLL_SECONDS):
                yield findings.recv()
                continue
        if current.value != seen:
            seen, since = current.value, time.monotonic()
        elif time.monotonic() - since > MAX_SILENCE_SECONDS:
            return f"it goes on for more than {MAX_SILENCE_SECONDS:.0f} s"
        if not process.is_alive():
            return f"its process ended: {process.exitcode}" if process.exitcode else ""
    return ""


def _kind(text: str) -> str:
    """The place and the type of an error, by which findings are told apart."""
    lines = [line for line in text.splitlines() if line.strip()]
    places = [line for line in lines if line.lstrip().startswith("File ")]
    return _VARIABLE.sub("", " ".join([*places[-2:], *lines[-1:]])[:400])


if __name__ == "__main__":
    fuzz()
