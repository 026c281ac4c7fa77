"""One concept, one word: what users read has none of the words that were given up for others.

The words to use are in docs/glossary.md. Only those are listed that have no other meaning in
these texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from commands.cli import cli
from tests.support import commands_page

ROOT = Path(__file__).parents[2]
# By the word to use, those that it replaced.
REPLACED = {
    "dead letters": (r"(?<!dead )(?<!dead-)letters",),
    "text or visual": ("looks",),
    "poll": ("tick", "ticks", "ticker"),
    "circuit breaker": ("outages", "waited out"),
    "check results": ("findings",),
    "message validation": ("vetting",),
    "worker registry": ("leases", "strike off", "struck off"),
    "foreign messages": ("litter", "astray"),
    "dead-letter": ("bury", "buried"),
    "resolve": ("settle", "settled"),
    "unconfirmed": ("doubtful",),
    "map data": ("atlas",),
    "image service": ("gallery",),
    "failures": ("ailment", "ailments", "ailing"),
    "expected outcome": ("fate",),
    "outcome checker": ("witness",),
    "disabled safeguards": ("sabotage",),
    "invalid": ("spoil", "spoilt"),
    "attempts": ("tries", "failed starts"),
    "discard": ("thrown away", "given up", "throw away", "give up"),
    "skipped": ("left out",),
    "details": ("what is known", "all that is known"),
    "unavailable": ("out of reach",),
    "fix": ("mend", "mended"),
    "again": ("anew",),
    "no one, or which part": ("nobody", "whoever"),
}
PATTERN = re.compile(
    rf"\b(?:{'|'.join(word for words in REPLACED.values() for word in words)})\b", re.IGNORECASE
)
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [
    *sorted((ROOT / "web" / "templates").glob("*.html")),
    *sorted((ROOT / "web" / "static").glob("*.js")),
    ROOT / "metrics" / "artifacts" / "alerts.yml",
    *DOCUMENTS,
]


def replaced_words(text: str) -> list[str]:
    """Those of the replaced words that a text has."""
    return PATTERN.findall(" ".join(text.split()))


def group_helps(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        yield name, command.get_help(context)
        for word, below in command.commands.items():
            yield from group_helps(f"{name} {word}", below)


HELPS = commands_page.real() | dict(group_helps("main.py", cli))


@pytest.mark.parametrize("name", sorted(HELPS))
def test_a_help_text_has_no_replaced_word(name: str) -> None:
    assert replaced_words(HELPS[name]) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_for_users_has_no_replaced_word(path: Path) -> None:
    assert replaced_words(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Put letters back", ["letters"]),
        ("Dead letters, dead-letters and dead\nletters: dead_letters", []),
        ("It was GIVEN\nUP", ["GIVEN UP"]),
        ("sticky ticket", []),
        ("submit ticks", ["ticks"]),
    ],
)
def test_replaced_words_are_found_as_whole_words(text: str, found: list[str]) -> None:
    assert replaced_words(text) == found
