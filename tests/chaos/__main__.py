"""``python -m tests.chaos``: run the fault suite and write its table."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

import click
from rich.console import Console
from rich.table import Table

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


@click.command()
@click.option("--quick", is_flag=True, help="The short form.")
@click.option("--only", multiple=True, help="Scenarios whose name holds this text.")
@click.option("--without", type=click.Choice(sorted(SAFEGUARDS)), help="Take a safeguard out.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def chaos(quick: bool, only: Sequence[str], without: str | None, out: Path) -> None:
    """Do the worst to a running system, and account for every image."""
    console = Console()
    chosen = [each for each in SCENARIOS if _is_chosen(each, quick, only)]
    folder = Path(tempfile.mkdtemp(prefix="weavloader-chaos-"))
    rows = _run(console, folder, chosen, without)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = sum(not row["good"] for row in rows)
    _show(console, rows)
    console.print(f"{len(rows) - bad} passed, {bad} failed", highlight=False)
    if bad:
        console.print(f"Logs are left in {folder / 'log'}.")
        sys.exit(1)
    rmtree(folder)


def _is_chosen(scenario: Scenario, quick: bool, only: Sequence[str]) -> bool:
    return (scenario.is_quick or not quick) and (
        not only or any(text in scenario.name for text in only)
    )


def _run(
    console: Console, folder: Path, scenarios: Sequence[Scenario], without: str | None
) -> list[Row]:
    with System(folder, without) as system:
        for name, value in system.environment().items():
            publish_to_environment(name, value)
        rows = []
        for place, scenario in enumerate(scenarios, 1):
            console.print(f"[{place}/{len(scenarios)}] {scenario.name} …", markup=False)
            rows.append(_play(system, scenario))
            console.print(f"    {_sentence(rows[-1])}", markup=False, highlight=False)
        return rows


def _play(system: System, scenario: Scenario) -> Row:
    name = scenario.name.replace(" ", "-").replace(",", "")
    published = scenario.images(system.replay.host, name, SEED)
    auditor = Auditor(system, published)
    system.replay.catalogue = catalogue(published, scenario.seconds)
    scenario.act(system)
    ended = time.monotonic()
    account = _settled(system, auditor, ended + max(scenario.patience, scenario.seconds))
    return _row(scenario, account, time.monotonic() - ended)


def _settled(system: System, auditor: Auditor, deadline: float) -> Account:
    while True:
        system.tend()
        account = auditor.account()
        if account.is_settled or time.monotonic() > deadline:
            return account
        time.sleep(_POLL_SECONDS)


def _row(scenario: Scenario, account: Account, seconds: float) -> Row:
    return {
        "fault": scenario.name,
        "published": account.published,
        "stored": account.stored,
        "doubled": account.doubled,
        "dead": account.dead,
        "missing": account.missing,
        "excluded": account.excluded,
        "model_calls_per_image": round(account.calls_per_image, 2),
        "recovery_s": round(seconds, 1),
        "good": account.is_good,
    }


def _sentence(row: Row) -> str:
    return ", ".join(f"{value} {name}" for name, value in row.items() if name != "fault")


def _show(console: Console, rows: Sequence[Row]) -> None:
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


if __name__ == "__main__":
    chaos()
