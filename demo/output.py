"""What a demo prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.account import Entry, totals
from demo.cases import DEAD, EXCLUDED, MISSING, REFUSED, STORED
from demo.plan import USER, Plan
from demo.servers.ports import HOST

_COLOURS = {STORED: "green", EXCLUDED: "cyan", REFUSED: "yellow", DEAD: "magenta", MISSING: "red"}
_MOST_ROWS = 100


def show_account(console: Console, account: Sequence[Entry]) -> None:
    """Print a line for each image, and the sum."""
    shown = account
    if len(account) > _MOST_ROWS:
        shown = [entry for entry in account if entry.found.outcome != STORED]
        console.print(f"{len(account)} images; those that were stored as they should are left out.")
    table = Table("image", "node", "published as", "became", title="Every image published")
    if not all(entry.is_as_expected for entry in shown):
        table.add_column("", style="bold red")
    for entry in shown:
        table.add_row(*_row(entry)[: len(table.columns)])
    console.print(table)
    parts = (f"{outcome}: {amount}" for outcome, amount in totals(account).items())
    console.print(f"published: {len(account)} = ", ", ".join(parts), sep="", highlight=False)


def show_verdict(console: Console, account: Sequence[Entry], leaks: Mapping[str, int]) -> bool:
    """Print whether everything is as it should be, and say so."""
    wrong = [entry for entry in account if not entry.is_as_expected]
    for entry in wrong:
        console.print(f"{entry.image.name}: {entry.found}, expected {entry.image.expected}")
    for header, times in leaks.items():
        console.print(f"credentials reached a foreign host {times} times: {header}")
    well = not wrong and not leaks
    if well:
        console.print("Every image is accounted for, each as it should be.", style="bold green")
    else:
        console.print("Not every image became what it should have.", style="bold red")
    return well


def show_addresses(console: Console, plan: Plan, keep: bool) -> None:
    """Print where a person can look."""
    console.print("\nServed on this machine" + ("" if keep else " until now (--keep stays)") + ":")
    ports = plan.ports
    table = Table.grid(padding=(0, 2))
    table.add_row("search and dead letters", f"http://{HOST}:{ports.web}/")
    table.add_row("metrics", f"http://{HOST}:{ports.metrics}/metrics")
    table.add_row("health", f"http://{HOST}:{ports.metrics}/health")
    table.add_row("Flower", f"http://{HOST}:{ports.flower}/  ({USER}, {plan.flower_password})")
    table.add_row("Redis", f"redis://{HOST}:{ports.redis}/0")
    table.add_row("logs", str(plan.folder / "log"))
    console.print(table)


def _row(entry: Entry) -> tuple[Text | str, ...]:
    image, found = entry.image, entry.found
    verdict = "" if entry.is_as_expected else f"expected {image.expected or 'anything but that'}"
    return (
        Text(image.name),
        image.vsn,
        image.kind,
        Text(str(found), _COLOURS[found.outcome]),
        verdict,
    )
