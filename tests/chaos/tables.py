"""The tables of ``docs/reliability.md``, from what ``make chaos`` and its proof left in ``build``.

``python -m tests.chaos.tables "DATE, COMMIT"`` writes them; each row keeps when it was last run.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.disabled_safeguards import SAFEGUARDS
from tests.chaos.scenarios import SCENARIOS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
CHAOS = {
    "fault": "fault",
    "published": "published",
    "stored": "stored once",
    "doubled": "doubled",
    "dead": "dead",
    "missing": "missing",
    "excluded": "excluded",
    "model_calls_per_image": "model calls",
    "recovery_s": "recovery, s",
    "run": "run at",
}
COLUMNS = {
    "without": "without",
    "fault": "fault",
    "missing": "missing",
    "doubled": "doubled",
    "wrong_outcome": "wrong outcome",
    "other_dead_letters": "other dead letters",
    "model_calls_per_image": "model calls",
    "other": "seen otherwise",
    "run": "run at",
}
_WORDS = ("fault", "without", "other", "run")
Row = Mapping[str, object]


def table(rows: Sequence[Sequence[str]], columns: Mapping[str, str]) -> str:
    """Rows of cells in Markdown."""
    marks = ["---" if name in _WORDS else "--:" for name in columns]
    lines = [list(columns.values()), marks, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replaced(page: str, name: str, text: str) -> str:
    """The page with what stands between two marks exchanged."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def kept(page: str, name: str, width: int) -> list[list[str]]:
    """The cells of the rows that a table of the page has, so many in each."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.DOTALL)
    lines = [line for line in found[1].splitlines() if line.startswith("| ")] if found else []
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]
    return [cells + [""] * (width - len(cells)) for cells in rows]


def main(when: str) -> None:
    """Write both tables; rows that were not run again stay."""
    page = PAGE.read_text()
    faults = [scenario.name for scenario in SCENARIOS]
    for name, columns, order in (
        ("chaos", CHAOS, faults),
        ("disabled_safeguards", COLUMNS, list(SAFEGUARDS)),
    ):
        lines = Path("build", f"{name}.json").read_text().splitlines()
        found = [{**json.loads(line), "run": when} for line in lines]
        run = [[_cell(row, column) for column in columns] for row in found]
        rows = {cells[0]: cells for cells in (*kept(page, name, len(columns)), *run)}
        chosen = [rows[first] for first in order if first in rows]
        page = replaced(page, name, table(chosen, columns))
    PAGE.write_text(page)


def _cell(row: Row, name: str) -> str:
    """What a row was failed for is in bold."""
    if name == "other":
        is_shown = row["seen_as"] in COLUMNS
        return "" if is_shown else f"**{row['seen_as']}**"
    text = f"{row[name]:,}" if isinstance(row[name], int) else str(row[name])
    return f"**{text}**" if name == row.get("seen_as") else text


if __name__ == "__main__":
    main(sys.argv[1])
