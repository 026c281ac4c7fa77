"""``python -m tests.chaos``: run the fault suite and write its table."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree

import click
from rich.console import Console

from tests.chaos.account import Account, Auditor
from tests.chaos.sabotage import SAFEGUARDS
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.system import System
from tests.chaos.world import catalogue
from weavloader.settings import publish_to_environment

Row = dict[str, str | int | float]
RESULTS = Path("build/chaos.json")
SEED = 7
_POLL_SECONDS = 0.5
# What a missing safeguard lets through is not going to come right after this.
_PROOF_PATIENCE = 45.0


@click.command()
@click.option("--quick", is_flag=True, help="The short form.")
@click.option("--only", multiple=True, help="Scenarios whose name holds this text.")
@click.option("--prove", is_flag=True, help="Take out one safeguard after another instead.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def chaos(quick: bool, only: Sequence[str], prove: bool, out: Path) -> None:
    """Do the worst to a running system, and account for every image."""
    console = Console(width=160)
    chosen = [each for each in SCENARIOS if _is_chosen(each, quick, only)]
    rows = _prove(console, only) if prove else _run(console, chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row, _ in rows))
    failed = sum(not passed for _, passed in rows)
    console.print(f"{len(rows) - failed} passed, {failed} failed", highlight=False)
    sys.exit(1 if failed else 0)


def _is_chosen(scenario: Scenario, quick: bool, only: Sequence[str]) -> bool:
    return (scenario.is_quick or not quick) and (
        not only or any(text in scenario.name for text in only)
    )


def _run(console: Console, scenarios: Sequence[Scenario]) -> list[tuple[Row, bool]]:
    rows = []
    with _running(console) as system:
        for place, scenario in enumerate(scenarios, 1):
            console.print(f"[{place}/{len(scenarios)}] {scenario.name} …", markup=False)
            row, passed = _play(system, scenario, scenario.patience)
            console.print(f"    {'ok' if passed else 'FAILED'}: {_sentence(row)}", markup=False)
            rows.append((row, passed))
    return rows


def _prove(console: Console, only: Sequence[str]) -> list[tuple[Row, bool]]:
    """Take out one safeguard after another: a row passes when the suite sees it missing."""
    faults = {scenario.name: scenario for scenario in SCENARIOS}
    rows = []
    for name, safeguard in SAFEGUARDS.items():
        if only and name not in only:
            continue
        console.print(f"without {name}: {safeguard.fault} …", markup=False)
        with _running(console, without=name) as system:
            row, passed = _play(system, faults[safeguard.fault], _PROOF_PATIENCE)
        console.print(f"    {'NOT SEEN' if passed else 'seen'}: {_sentence(row)}", markup=False)
        rows.append(({"without": name, **row}, not passed))
    return rows


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
    rmtree(folder)


def _play(system: System, scenario: Scenario, patience: float) -> tuple[Row, bool]:
    name = scenario.name.replace(" ", "-").replace(",", "")
    published = scenario.images(system.replay.host, name, SEED)
    auditor = Auditor(system, published)
    system.replay.catalogue = catalogue(published, scenario.seconds)
    scenario.act(system)
    ended = time.monotonic()
    account = _settled(system, auditor, ended + patience)
    return _row(scenario, account, time.monotonic() - ended), scenario.is_passed(account)


def _settled(system: System, auditor: Auditor, deadline: float) -> Account:
    while True:
        system.tend()
        account = auditor.account()
        if account.is_settled or time.monotonic() > deadline:
            return account
        time.sleep(_POLL_SECONDS)


def _row(scenario: Scenario, account: Account, seconds: float) -> Row:
    counts = asdict(account)
    shown = ("published", "stored", "doubled", "dead", "missing", "excluded")
    return {
        "fault": scenario.name,
        **{name: counts[name] for name in shown},
        "astray": len(account.astray),
        "other_letters": account.letters,
        "model_calls_per_image": round(account.calls_per_image, 2),
        "recovery_s": round(seconds, 1),
    }


def _sentence(row: Row) -> str:
    return ", ".join(f"{value} {name}" for name, value in row.items() if name != "fault")


if __name__ == "__main__":
    chaos()
