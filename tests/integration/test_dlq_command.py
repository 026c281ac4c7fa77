"""``main.py dlq`` as a person meets it, on a real Redis."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery

from main import main
from tests.support.reference_deployment import archive, image_data
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.errors import Reason
from weavloader.images.job import image_id

ROOT = Path(__file__).parents[2]
TASK = "job_system.tasks.process_image_task"
A, B, C = (f"{number}" * 8 + "-0000-5000-8000-000000000000" for number in "123")


class Answer(NamedTuple):
    """How a command ended, and what it wrote."""

    returncode: int | str
    stdout: str
    stderr: str


@pytest.fixture
def letters(redis: Any) -> DeadLetters:
    """Three dead letters, the first the oldest."""
    kept = DeadLetters(redis, ttl=3600)
    kept.put(letter(A, "not_found", "W021", hours=72))
    kept.put(letter(B, "not_found", "W07A", hours=2))
    kept.put(letter(C, "broker", "W021", hours=1))
    return kept


@pytest.fixture
def dlq(
    job_system: Celery,
    letters: DeadLetters,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Answer]:
    """Runs the command."""
    monkeypatch.setenv("COLUMNS", "140")

    def run(*arguments: str, said: str = "") -> Answer:
        monkeypatch.setattr(sys, "argv", ["main.py", "dlq", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        with pytest.raises(SystemExit) as end:
            main()
        return Answer(end.value.code or 0, *capsys.readouterr())

    return run


def letter(name: str, reason: str, vsn: str, hours: float) -> DeadLetter:
    """A letter of an image that failed ``hours`` ago."""
    moment = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
    image = {"url": f"https://example.org/{name}.jpg", "vsn": vsn}
    return DeadLetter(
        name,
        TASK,
        [image],
        {},
        "PermanentError",
        f"{reason}: it is \x1b[31mgone",
        "Traceback\n  line two",
        0,
        moment,
        moment,
        1,
        "processor@test",
    )


def test_the_list_shows_ages_and_reasons_newest_first(dlq: Callable[..., Answer]) -> None:
    shown = dlq("list", "--format", "table").stdout
    assert shown.index(C) < shown.index(B) < shown.index(A)
    assert "3d" in shown and "3 of 3 shown" in shown
    assert "by reason: not_found 2, broker 1" in shown
    assert "\x1b" not in shown


def test_a_long_message_leaves_room_for_the_reason_and_the_node(
    dlq: Callable[..., Answer], letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordy = replace(letter(A, "", "W09B", hours=1), exc_message="not_found: " + "word " * 100)
    letters.put(wordy)
    monkeypatch.setenv("COLUMNS", "80")
    (line,) = [
        line for line in dlq("list", "--format", "table").stdout.splitlines() if line.startswith(A)
    ]
    assert "not_found" in line and "W09B" in line


@pytest.mark.parametrize("columns", ["20", "39", "80"])
def test_ids_stay_whole_on_a_narrow_terminal(
    dlq: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert A in dlq("list", "--format", "table").stdout
    assert A in dlq("show", A).stdout


def test_what_is_piped_is_whole_and_separated_by_tabs(
    dlq: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    head, *rows = (line.split("\t") for line in dlq("list").stdout.splitlines())
    shown = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["id"] for row in shown] == [C, B, A]
    assert shown[0]["reason"] == "broker" and shown[0]["message"] == "it is  [31mgone"


def test_other_formats_for_programs(dlq: Callable[..., Answer]) -> None:
    assert dlq("list", "--format", "ids").stdout.split() == [C, B, A]
    lines = dlq("list", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["task_id"] for line in lines] == [C, B, A]
    rows = csv.DictReader(io.StringIO(dlq("list", "--format", "csv").stdout))
    assert [row["vsn"] for row in rows] == ["W021", "W07A", "W021"]
    both = dlq("list", "--format", "csv", "--json")
    assert (both.returncode, len(both.stderr.splitlines())) == (2, 1)


def test_the_beginning_of_an_id_is_enough(dlq: Callable[..., Answer], letters: DeadLetters) -> None:
    assert A in dlq("show", A[:8]).stdout
    assert "1 discarded" in dlq("drop", B[:4]).stdout
    assert letters.existing([A, B, C]) == {A, C}
    letters.put(letter(f"{A[:8]}-other", "broker", "W021", hours=1))
    ambiguous = dlq("show", A[:8])
    assert ambiguous.returncode == 1 and "2 dead letters" in ambiguous.stderr
    assert dlq("show", A[:3]).returncode == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--reason", "broker"], [C]),
        (["--vsn", "w021"], [C, A]),
        (["--older", "1d"], [A]),
        (["--newer", "3h"], [C, B]),
        (["--limit", "1"], [C]),
        (["--reason", "unheard_of"], []),
    ],
)
def test_filters_and_json(
    dlq: Callable[..., Answer], options: list[str], expected: list[str]
) -> None:
    answer = dlq("list", "--json", *options)
    assert [one["task_id"] for one in json.loads(answer.stdout)] == expected


def test_show_prints_the_details_and_the_remedy(dlq: Callable[..., Answer]) -> None:
    shown = dlq("show", A).stdout
    for part in ("not_found", "W021", "Traceback", "  line two", "processor@test", "(3d", TASK):
        assert part in shown
    assert f"https://example.org/{A}.jpg" in shown and "\x1b" not in shown
    assert Reason.NOT_FOUND.remedy in " ".join(shown.split())


@pytest.mark.parametrize(
    "arguments", [["show", "nobody"], ["retry", A, "nobody"], ["drop", "nobody"]]
)
def test_an_unknown_id_is_one_line_and_nothing_is_done(
    dlq: Callable[..., Answer], redis: Any, arguments: list[str]
) -> None:
    answer = dlq(*arguments, "--yes") if arguments[0] != "show" else dlq(*arguments)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "weavloader: there is no dead letter nobody\n"
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"],
        ["drop"],
        ["retry", A, "--all"],
        ["drop", A, "--vsn", "W021"],
        ["list", "--older", "x"],
    ],
)
def test_bad_input_is_one_line_and_code_2(dlq: Callable[..., Answer], arguments: list[str]) -> None:
    answer = dlq(*arguments)
    assert answer.returncode == 2 and len(answer.stderr.splitlines()) == 1


def test_reprocessing_all_asks_first_and_keeps_the_dead_letters(
    dlq: Callable[..., Answer], redis: Any, letters: DeadLetters
) -> None:
    assert dlq("retry", "--all", said="n\n").returncode != 0
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 0
    assert "3 queued again" in dlq("retry", "--all", said="y\n").stdout
    again = dlq("retry", "--all", "--reason", "not_found", "--yes").stdout
    assert "0 queued again" in again and "2 skipped: already queued" in again
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 3 and letters.count() == 3
    sent = [json.loads(raw)["headers"] for raw in redis.lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)]
    assert {(one["id"], one["task"]) for one in sent} == {(name, TASK) for name in (A, B, C)}


def test_one_dead_letter_is_reprocessed_without_confirmation(
    dlq: Callable[..., Answer], redis: Any
) -> None:
    assert "1 queued again" in dlq("retry", B).stdout
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 1
    assert "ago" in dlq("show", B).stdout.partition("queued again")[2].splitlines()[0]


def test_discarding_by_a_filter_keeps_the_others(
    dlq: Callable[..., Answer], letters: DeadLetters
) -> None:
    assert dlq("drop", "--all", "--vsn", "W021", "--yes").stdout == "2 discarded\n"
    assert list(letters.ids()) == [B]
    assert dlq("drop", B).stdout == "1 discarded\n"
    assert dlq("list", "--format", "ids").stdout == ""


def test_without_a_redis_it_says_so_in_one_line() -> None:
    answer = subprocess.run(
        [sys.executable, "main.py", "dlq", "list"],
        cwd=ROOT,
        env={**os.environ, "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1 and len(answer.stderr.splitlines()) == 1
    assert "Redis" in answer.stderr


def test_dead_letters_of_the_reference_deployment_are_handled_like_ours(
    dlq: Callable[..., Answer], letters: DeadLetters, redis: Any
) -> None:
    first, second = (archive(redis, image_data(f"https://x/{name}.jpg")) for name in "12")
    shown = dlq("show", first)
    assert shown.returncode == 0 and "HTTPError: 404 Client Error" in shown.stdout
    listed = dlq("list", "--format", "table").stdout
    assert first in listed and "5 of 5 shown" in listed and "HTTPError 2" in listed
    by_image = dlq("show", image_id("https://x/1.jpg"))
    assert first in by_image.stdout
    assert dlq("retry", image_id("https://x/1.jpg")).stdout == "1 queued again\n"
    assert set(letters.reprocessed_at([first, second])) == {first}
    assert dlq("drop", second).stdout == "1 discarded\n"
    assert redis.exists(f"dlq:{second}") == 0


def test_a_key_that_is_no_dead_letter_is_one_line(dlq: Callable[..., Answer], redis: Any) -> None:
    redis.set("dlq:odd", '{"failed_task": 1}')
    ended = dlq("show", "odd")
    assert ended.returncode == 1
    assert ended.stderr == "weavloader: there is no dead letter odd\n"
