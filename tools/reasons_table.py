"""The table of reasons in docs/dead-letters.md: ``python -m tools.reasons_table`` updates it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weavloader.errors import Component, Reason

PAGE = Path(__file__).parents[1] / "docs" / "dead-letters.md"
START, END = "<!-- reasons -->", "<!-- end of reasons -->"
# What a task can fail of; the others are told to the person at the command line.
COMPONENTS = (
    Component.IMAGE,
    Component.RECORD,
    Component.STORAGE,
    Component.SAGE,
    Component.TRITON,
    Component.CAPTIONER,
    Component.STORE,
    Component.MESSAGE,
    Component.WORKER,
)


def table() -> str:
    """The reasons by component, in Markdown."""
    return "\n".join(["| reason | component | class | remedy |", "|---|---|---|---|", *_rows()])


def with_table(page: str) -> str:
    """The page with its table replaced."""
    head, _, rest = page.partition(START)
    _, _, tail = rest.partition(END)
    return f"{head}{START}\n{table()}\n{END}{tail}"


def _rows() -> Iterator[str]:
    for component in COMPONENTS:
        for reason in Reason:
            if reason.component is component:
                yield f"| `{reason}` | {component} | {reason.kind} | {reason.remedy} |"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
