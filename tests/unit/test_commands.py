"""The command line: what the documents say of it, and how it answers what it cannot do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from commands.cli import ROLES, cli
from tests.support import commands_page
from weavloader import __version__

ROOT = Path(__file__).parents[2]
REAL = commands_page.real()
README = ROOT / "README.md"
PAGES = [*(ROOT / "docs").glob("*.md"), *([README] if README.exists() else [])]


@pytest.mark.parametrize("name", sorted(REAL))
def test_the_page_of_commands_shows_the_help_of_each(name: str) -> None:
    assert commands_page.documented().get(name) == REAL[name], (
        "docs/commands.md is outdated: run .venv/bin/python -m tests.support.commands_page"
    )


def test_the_page_of_commands_shows_none_that_is_gone() -> None:
    assert commands_page.documented().keys() == REAL.keys()


@pytest.mark.parametrize("name", sorted(REAL))
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command: click.Command = cli
    for word in name.split()[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    silent = [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert command.help and not silent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_document_tells_people_to_run_exists(page: Path) -> None:
    told = re.findall(r"python main\.py ([a-z][a-z-]*)", page.read_text())
    assert set(told) <= cli.commands.keys()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["searhc"], "searhc"),
        (["search"], "TEXT"),
        (["search", "snow", "--limit", "many"], "--limit"),
        (["search", "snow", "--alpha", "7"], "--alpha"),
        (["search", "snow", "--since", "yesterday"], "yesterday"),
        (["search", "snow", "--near", "Chicago"], "Chicago"),
        (["search", "snow", "--property", "link"], "--property"),
        (["search", "snow", "--limit", "1000", "--offset", "1"], "1000"),
        (["search", "snow", "--like", "4f1c1e0e-0000-5000-8000-000000000001"], "--like"),
        (["search", "--like", "4f1c1e0e-0000-5000-8000-000000000001", "--explain"], "--explain"),
        (["search", "--like", "4f1c1e0e-0000-5000-8000-000000000001", "--alpha", "1"], "--alpha"),
        (["processor", "--concurrency", "0"], "--concurrency"),
        (["--worker_type", "painter"], "painter"),
        (["--worker_type=painter"], "painter"),
        (["check", "--role", "painter"], "painter"),
        (["demo", "--images-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--log-level", "loud"], "loud"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    done = run(arguments, VECTOR_STORE="embedded", EMBEDDED_STORE_PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr


@pytest.mark.parametrize("role", ["stream", "processor", "scheduler", "flower", "metrics", "web"])
def test_a_bad_setting_ends_any_role_with_one_line_and_exit_code_2(role: str) -> None:
    done = run([role], POLL_MIN_SECONDS="soon")
    assert done.returncode == 2
    assert done.stderr == (
        "weavloader: POLL_MIN_SECONDS: expected a duration such as 90s, 10m, 24h or 30d,"
        " not 'soon'\n"
    )


def test_help_needs_no_setting_to_be_right() -> None:
    assert run(["--help"], TRITON_PORT="none").returncode == 0


def test_the_help_lists_roles_and_tools_with_their_whole_summaries() -> None:
    shown = run(["--help"], COLUMNS="60").stdout
    roles, tools = (" ".join(part.split()) for part in shown.partition("Roles:")[2].split("Tools:"))
    for name, command in cli.commands.items():
        summary = " ".join((command.help or "").partition("\n\n")[0].split()).rstrip(".")
        assert f"{name} {summary}" in (roles if name in ROLES else tools)


def test_the_version_is_one_line() -> None:
    done = run(["--version"])
    assert (done.returncode, done.stdout) == (0, f"weavloader {__version__}\n")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("main.py se", "search"),
        ("main.py --log-level ", "search"),
        ("main.py search --al", "--alpha"),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, completed: str) -> None:
    done = run(
        [],
        COMP_WORDS=words,
        COMP_CWORD=str(words.count(" ")),
        _MAIN_PY_COMPLETE="bash_complete",
    )
    assert f"plain,{completed}" in done.stdout.splitlines()


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """``python main.py`` with ``arguments``, and no environment but the given."""
    return subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
