"""``python -m tests.chaos``: run the fault suite and write its table."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from tests.chaos.dataset import catalogue
from tests.chaos.disabled_safeguards import SAFEGUARDS
from tests.chaos.outcome_checker import OutcomeChecker, Outcomes
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.system import System
from weavloader.settings import publish_to_environment

Row = dict[str, str | int | float]
Rows = Iterator[tuple[Row, bool]]
RESULTS, PROOF = Path("build/chaos.json"), Path("build/disabled_safeguards.json")
SEED = 7
_POLL_SECONDS = 0.5


@click.command()
@click.option("--quick", is_flag=True, help="The short form.")
@click.option("--only", multiple=True, help="Scenarios whose name holds this text.")
@click.option("--prove", is_flag=True, help="Take out one safeguard after another instead.")
@click.option("--out", type=click.Path(path_type=Path), help=f"{RESULTS}, or {PROOF}.")
def chaos(quick: bool, only: Sequence[str], prove: bool, out: Path | None) -> None:
    """Injects faults into a running system, and checks the outcome of every image."""
    console = Console(width=160)
    chosen = [
        each for each in SCENARIOS if _is_chosen(each.name, only) and _is_possible(each, console)
    ]
    rows = (
        _prove(console, only)
        if prove
        else _run(console, [each for each in chosen if each.is_quick or not quick], stops=quick)
    )
    passed = _write(rows, out or (PROOF if prove else RESULTS))
    console.print(f"{passed.count(True)} passed, {passed.count(False)} failed", highlight=False)
    sys.exit(0 if all(passed) else 1)


def _is_chosen(name: str, only: Sequence[str]) -> bool:
    return not only or any(text in name for text in only)


def _is_possible(scenario: Scenario, console: Console) -> bool:
    """Whether this machine has what a scenario needs; says what it lacks."""
    lacks = ""
    if scenario.needs_root and os.geteuid() != 0:
        lacks = "root"
    if scenario.on_weaviate and shutil.which("weaviate") is None:
        lacks = "a weaviate binary on PATH"
    if lacks:
        console.print(f"SKIPPED: {scenario.name}: it needs {lacks}", markup=False)
    return not lacks


def _write(rows: Rows, out: Path) -> list[bool]:
    """Write each row as it comes, so that a run that is broken off leaves what it found."""
    results = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", buffering=1) as file:
        for row, passed in rows:
            file.write(json.dumps(row) + "\n")
            results.append(passed)
    return results


def _run(console: Console, scenarios: Sequence[Scenario], *, stops: bool) -> Rows:
    """Go through scenarios; ``stops`` at the first that fails, so that nobody waits for more."""
    with _running(console) as system:
        for place, scenario in enumerate(scenarios, 1):
            console.print(f"[{place}/{len(scenarios)}] {scenario.name} …", markup=False)
            row, wrong = _play(system, scenario)
            system.keeps_logs |= bool(wrong)
            verdict = f"FAILED ({', '.join(wrong)})" if wrong else "ok"
            console.print(f"    {verdict}: {_sentence(row)}", markup=False)
            yield row, not wrong
            if wrong and stops:
                return


def _prove(console: Console, only: Sequence[str]) -> Rows:
    """Take out one safeguard after another: a row passes when the suite sees it missing."""
    faults = {scenario.name: scenario for scenario in SCENARIOS}
    for name, safeguard in SAFEGUARDS.items():
        if not _is_chosen(name, only) or not _is_possible(faults[safeguard.fault], console):
            continue
        console.print(f"without {name}: {safeguard.fault} …", markup=False)
        with _running(console, without=name) as system:
            row, wrong = _play(system, faults[safeguard.fault])
        is_seen = safeguard.seen_as in wrong
        console.print(f"    {'seen' if is_seen else 'NOT SEEN'}: {_sentence(row)}", markup=False)
        yield {"without": name, "seen_as": safeguard.seen_as, **row}, is_seen


@contextmanager
def _running(console: Console, without: str | None = None) -> Iterator[System]:
    folder = Path(tempfile.mkdtemp(prefix="weavloader-chaos-"))
    try:
        with System(folder, without) as system:
            for name, value in system.environment().items():
                publish_to_environment(name, value)
            yield system
    except BaseException:
        console.print(f"Logs are left in {folder / 'log'}.")
        raise
    if system.keeps_logs:
        console.print(f"Logs are left in {folder / 'log'}.")
    else:
        shutil.rmtree(folder)


def _play(system: System, scenario: Scenario) -> tuple[Row, list[str]]:
    """Go through a scenario on its store; its row, and what is wrong with it."""
    with system.on_weaviate() if scenario.on_weaviate else nullcontext():
        return _played(system, scenario)


def _played(system: System, scenario: Scenario) -> tuple[Row, list[str]]:
    name = scenario.name.replace(" ", "-").replace(",", "")
    published = scenario.images(system.replay.host, name, SEED)
    checker = OutcomeChecker(system, published)
    system.replay.catalogue = catalogue(published, scenario.seconds, scenario.arrives_after)
    failures = _act(system, scenario)
    ended = time.monotonic()
    outcomes = _settled(system, checker, scenario.patience)
    wrong = [*failures, *scenario.violations(outcomes)]
    return _row(scenario, outcomes, time.monotonic() - ended), wrong


def _act(system: System, scenario: Scenario) -> list[str]:
    """Bring the fault about; what it waited for in vain."""
    try:
        scenario.bring_about(system)
    except AssertionError as error:
        click.echo(f"    {error}")
        return [str(error).partition(":")[0]]
    return []


def _settled(system: System, checker: OutcomeChecker, patience: float) -> Outcomes:
    """The outcomes once every image has one, or nothing has changed for so many seconds."""
    before, changed = None, time.monotonic()
    while True:
        system.tend()
        is_idle = checker.is_idle()
        outcomes = checker.outcomes()
        if outcomes != before:
            before, changed = outcomes, time.monotonic()
        if (is_idle and outcomes.is_settled) or time.monotonic() - changed > patience:
            return outcomes
        time.sleep(_POLL_SECONDS)


def _row(scenario: Scenario, outcomes: Outcomes, seconds: float) -> Row:
    counts = asdict(outcomes)
    shown = ("published", "stored", "doubled", "dead", "missing", "excluded")
    return {
        "fault": scenario.name,
        **{name: counts[name] for name in shown},
        "wrong_outcome": len(outcomes.wrong_outcome),
        "other_dead_letters": outcomes.dead_letters,
        "model_calls_per_image": round(outcomes.calls_per_image, 2),
        "recovery_s": round(seconds, 1),
    }


def _sentence(row: Row) -> str:
    return ", ".join(f"{value} {name}" for name, value in row.items() if name != "fault")


if __name__ == "__main__":
    chaos()
