"""The command line: what the documents say of it, and how it answers what it cannot do."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from commands import names_role, normalize_args
from commands.cli import ROLES, cli, say, write_json_lines
from commands.console import progress_bar
from tests.support import commands_page
from tests.support.command_line import Run, run_command
from weavloader import __version__
from weavloader.settings import load_settings

__all__ = ["run_command"]

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
        (["--log-level"], "--log-level"),
        (["--worker_type"], "processor"),
        (["--log_level", "loud", "check"], "loud"),
        (["search", "   "], "TEXT"),
        (["search", "snow", "--since", "1h", "--until", "2h"], "1h"),
        (["audit", "--since", "400000d"], "400000d"),
        (["backfill", "--start", "400000d", "--end", "1d"], "400000d"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    run_command: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path))
    code, output, error = run_command(*arguments)
    assert (code, output) == (2, "")
    assert len(error.splitlines()) == 1
    assert named in error


@pytest.mark.parametrize("role", ["stream", "processor", "scheduler", "flower", "metrics", "web"])
def test_a_bad_setting_ends_any_role_with_one_line_and_exit_code_2(role: str) -> None:
    done = run([role], POLL_MIN_SECONDS="soon")
    assert done.returncode == 2
    assert done.stderr == (
        "weavloader: POLL_MIN_SECONDS: expected a duration such as 90s, 10m, 24h or 30d,"
        " not 'soon'\n"
    )


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
@pytest.mark.parametrize("url", ["nonsense", "amqp://guest:secret@rabbit//", "redis://h:port/0"])
@pytest.mark.parametrize("command", ["stream", "processor", "scheduler", "dlq list"])
def test_another_broker_than_redis_is_refused_in_one_line(
    name: str, url: str, command: str, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, url)
    code, _, error = run_command(*command.split())
    assert (code, error) == (
        2,
        f"weavloader: {name}: expected redis://HOST:PORT/DB, rediss://… or sentinel://…\n",
    )


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h:1/2", "sentinel://h:1;sentinel://i:2", "sentinel://h:1;i:2/0"]
)
def test_every_form_of_a_redis_address_is_accepted(url: str) -> None:
    assert load_settings(celery_broker_url=url).celery_broker_url


@pytest.mark.parametrize(
    "line", ["-A job_system inspect active", "-A tasks worker", "-A tasks beat"]
)
def test_a_bad_setting_ends_a_command_of_celery_with_one_line(line: str) -> None:
    celery = [sys.executable, "-m", "celery", *line.split()]
    done = run_program(celery, LOG_LEVEL="loud")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "LOG_LEVEL" in done.stderr


@pytest.mark.parametrize("level", ["CRITICAL", "critical", "DEBUG"])
def test_every_level_of_logging_is_accepted(level: str) -> None:
    assert load_settings(log_level=level).log_level == level.upper()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ([], ["stream"]),
        (["--log-level", "debug"], ["--log-level", "debug", "stream"]),
        (["--log-level=debug"], ["--log-level=debug", "stream"]),
        (["--log-level", "debug", "processor"], ["--log-level", "debug", "processor"]),
        (["--log_level", "debug", "dlq"], ["--log_level", "debug", "dlq"]),
        (["--worker_type", "web"], ["web"]),
        (["--worker-type=web", "--help"], ["web", "--help"]),
        (["--log-level", "debug", "--worker_type", "web"], ["--log-level", "debug", "web"]),
        (["--log-level", "debug", "--help"], ["--log-level", "debug", "--help"]),
        (["--worker_type"], ["--worker_type"]),
    ],
)
def test_a_command_line_is_understood_as_people_write_it(
    arguments: list[str], meant: list[str]
) -> None:
    assert normalize_args(arguments) == meant
    assert names_role(arguments) == (meant[-1] in ROLES or "web" in meant)


def test_a_level_of_logging_may_stand_before_the_command() -> None:
    for line in (["processor"], ["dlq", "list"], ["--worker_type", "web"]):
        done = run(["--log-level", "debug", *line, "--help"])
        assert (done.returncode, done.stderr) == (0, "")
        assert line[-1] in done.stdout.splitlines()[0]


@pytest.mark.parametrize("group", ["dlq", "schema"])
def test_a_group_alone_shows_its_help_over_several_lines(group: str) -> None:
    done = run([group])
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    command = cli.commands[group]
    assert isinstance(command, click.Group)
    for name in command.commands:
        assert any(line.startswith(f"  {name} ") for line in lines)


@pytest.mark.parametrize("command", ["--help", "schema show", "search --help"])
def test_a_reader_that_wants_no_more_ends_a_command_well(command: str, tmp_path: Path) -> None:
    # The reader has ended before anything is written, which one of `head -1` may or may not have.
    line = f"set -o pipefail; {{ sleep 0.5; {sys.executable} main.py {command}; }} | true"
    store = {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(tmp_path)}
    done = run_program(["bash", "-c", line], **store)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_tool_that_counts_leaves_no_file_open(tmp_path: Path) -> None:
    # weaviate's package turns these warnings on.
    line = [sys.executable, "-W", "always::ResourceWarning", "main.py", "search", "snow"]
    nowhere = {"TRITON_HOST": "127.0.0.1", "TRITON_PORT": "1"}
    store = {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(tmp_path / "store")}
    counts = str(tmp_path / "counts")
    done = run_program(line, **nowhere, **store, PROMETHEUS_MULTIPROC_DIR=counts)
    assert list(Path(counts).iterdir()), "it counted the call of the model"
    assert "ResourceWarning" not in done.stderr


class Terminal(io.StringIO):
    """What looks like a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_progress_bar_says_which_time_is_elapsed_and_which_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("export", total=2) as advance:
        advance(1, "1 object")
    assert re.search(r"1 object.* elapsed .*0:00:0\d.* left ", terminal.getvalue())


def test_without_a_command_the_first_log_line_says_what_runs() -> None:
    with subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"},
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr is not None
        first = program.stderr.readline()
        program.terminate()
    assert "no command given: running the stream monitor" in first and "--help" in first


def test_ctrl_c_while_a_tool_is_imported_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("print('imports', flush=True); __import__('time').sleep(60)")
    with subprocess.Popen(
        [sys.executable, "main.py", "search", "snow"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "imports\n"
        program.send_signal(signal.SIGINT)
        _, error = program.communicate(timeout=60)
    assert (program.returncode, error) == (-signal.SIGINT, "")


def test_help_needs_no_setting_to_be_right() -> None:
    assert run(["--help"], TRITON_PORT="none").returncode == 0


def test_the_help_lists_roles_and_tools_with_their_whole_summaries() -> None:
    shown = run(["--help"], COLUMNS="60").stdout
    roles, tools = (" ".join(part.split()) for part in shown.partition("Roles:")[2].split("Tools:"))
    for name, command in cli.commands.items():
        summary = " ".join((command.help or "").partition("\n\n")[0].split()).rstrip(".")
        assert f"{name} {summary}" in (roles if name in ROLES else tools)


def test_all_that_commands_say_passes_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    modules = [path for path in (ROOT / "commands").glob("*.py") if path.name != "cli.py"]
    assert not [path.name for path in modules if "click.echo" in path.read_text()]
    say("a\x1b[31m\u202e\nhttp://me:secret@host/")
    assert capsys.readouterr().out == "a [31m \nhttp://me:***@host/\n"


def test_json_lines_are_escaped_where_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"caption": "Schnee über \u202e\x9b"}, {"caption": "Schnee über"}]
    write_json_lines(rows)
    first, second = capsys.readouterr().out.splitlines()
    assert [json.loads(first), json.loads(second)] == rows
    assert first.isprintable() and "über" in second


def test_the_version_is_one_line() -> None:
    done = run(["--version"])
    assert (done.returncode, done.stdout) == (0, f"weavloader {__version__}\n")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("main.py se", "search"),
        ("main.py --log-level ", "debug"),
        ("main.py --log-level debug ", "search"),
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
    return run_program([sys.executable, "main.py", *arguments], **environment)


def run_program(line: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in the project's folder, and no environment but the given."""
    return subprocess.run(
        line,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
