"""The tables of ``docs/reliability.md``, from what ``make chaos`` and its proof left in ``build``.

``python -m tests.chaos.tables "DATE, COMMIT"`` writes them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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
}
SAFEGUARDS = {
    "without": "without",
    "fault": "fault",
    "missing": "missing",
    "doubled": "doubled",
    "wrong_outcome": "wrong outcome",
    "other_dead_letters": "other dead letters",
    "model_calls_per_image": "model calls",
}
_WORDS = ("fault", "without")
Row = Mapping[str, object]


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows in Markdown; what a row was failed for is in bold."""
    lines = [columns.values(), ["---" if name in _WORDS else "--:" for name in columns]]
    lines += [[_cell(row, name) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replaced(page: str, name: str, text: str) -> str:
    """The page with what stands between two marks exchanged."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def main(when: str) -> None:
    """Write both tables, each with the moment of the run."""
    page = PAGE.read_text()
    for name, columns in (("chaos", CHAOS), ("disabled_safeguards", SAFEGUARDS)):
        lines = Path("build", f"{name}.json").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        page = replaced(page, name, f"{when}:\n\n{table(rows, columns)}")
    PAGE.write_text(page)


def _cell(row: Row, name: str) -> str:
    text = f"{row[name]:,}" if isinstance(row[name], int) else str(row[name])
    return f"**{text}**" if name == row.get("seen_as") else text


if __name__ == "__main__":
    main(sys.argv[1])
