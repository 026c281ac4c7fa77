"""Logs: tagged, for people or collectors, and without secrets."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from job_system.tasks.processor import log_image
from processing import Stages
from weavloader import logs
from weavloader.logs import configure_logging, mask, masker, printable
from weavloader.settings import get_settings, load_settings

ROOT = Path(__file__).parents[2]
SECRETS = {
    "sage_pass": "sage-sécret",
    "weaviate_api_key": "weaviate-secret",
    "flower_basic_auth": "one:flower-secret,two:other-secret",
    "celery_broker_url": "redis://:broker%40secret@redis:6379/0",
    "celery_result_backend": "rediss://user:result-secret@redis:6379/0",
}
PASSWORDS = (
    "sage-sécret",
    "weaviate-secret",
    "flower-secret",
    "other-secret",
    "broker%40secret",
    "broker@secret",
    "result-secret",
)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Configures logging of a role with settings, logs by a function, gives what was written."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run(log: Callable[[], object], **settings: Any) -> str:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging("processor", load_settings(**{**SECRETS, **settings}))
        log()
        return stream.getvalue()

    yield run
    logging.captureWarnings(False)
    root.handlers[:] = before
    for name in logs._CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET)


def fail_with(message: str) -> None:
    """Log a failure whose traceback holds ``message``."""
    try:
        raise ValueError(message)
    except ValueError:
        logging.getLogger("weavloader.x").exception("failed")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("secret", PASSWORDS)
def test_no_password_reaches_the_log_not_even_in_a_traceback(
    written: Callable[..., str], log_format: str, secret: str
) -> None:
    def log() -> None:
        logging.warning("connecting with %s", secret, extra={"given": {"password": secret}})
        fail_with(f"cannot use {secret} here")

    text = written(log, log_format=log_format)
    assert "ValueError" in text
    assert secret not in text
    assert json.dumps(secret)[1:-1] not in text


def test_a_line_is_tagged_with_its_role(written: Callable[..., str]) -> None:
    assert "[PROCESSOR] WARNING something" in written(lambda: logging.warning("something"))


def test_json_is_one_object_a_line_with_what_the_caller_gave(written: Callable[..., str]) -> None:
    def log() -> None:
        logging.warning("%d things\nof mine", 2, extra={"image": "abc", "seconds": {"store": 0.5}})

    (line,) = written(log, log_format="json").splitlines()
    fields = json.loads(line)
    assert fields["time"].endswith("+00:00")
    del fields["time"]
    assert fields == {
        "tag": "PROCESSOR",
        "level": "WARNING",
        "logger": "root",
        "message": "2 things\nof mine",
        "image": "abc",
        "seconds": {"store": 0.5},
    }


def test_an_image_leaves_one_line_with_its_id_outcome_and_times(
    written: Callable[..., str],
) -> None:
    stages = Stages({"download": 0.25, "caption": 1.0})

    def log() -> None:
        log_image(logging.INFO, "some-id", "stored", stages, "vsn=W021")

    text = written(log, log_level="INFO")
    assert text.endswith("INFO image some-id stored download=0.25s caption=1.00s: vsn=W021\n")
    fields = json.loads(written(log, log_level="INFO", log_format="json"))
    assert fields["image"] == "some-id"
    assert fields["outcome"] == "stored"
    assert fields["seconds"] == {"download": 0.25, "caption": 1.0}


def test_celery_adds_no_second_line_for_an_image(written: Callable[..., str]) -> None:
    def log() -> None:
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).info("Task received")

    assert written(log, log_level="INFO") == ""


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("at https://me:p@w@host:1/x", "at https://me:***@host:1/x"),
        ("http://host:80/a@b", "http://host:80/a@b"),
    ],
)
def test_the_password_of_any_url_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize("text", ["x" * 10**6 + "://", "a://b:c" * 10**5, "://a:" + "b" * 10**6])
def test_a_long_text_is_masked_at_once(text: str) -> None:
    began = time.process_time()
    assert mask(text) == text
    assert time.process_time() - began < 2


def test_where_nothing_is_secret_nothing_is_masked() -> None:
    nothing = load_settings(sage_pass="", flower_basic_auth="a:b", weaviate_api_key="")
    assert masker(nothing)("a plain text") == "a plain text"


@pytest.mark.parametrize(
    "text",
    [
        "at /x?key=a%2Bb%20secret",
        f"header {base64.b64encode(b'joe:a+b secret')!r}",
        "with 'a+b secret'",
    ],
)
def test_a_secret_is_masked_however_it_is_written(text: str) -> None:
    without_secrets = masker(load_settings(sage_user="joe", sage_pass="a+b secret"))
    assert "***" in without_secrets(text)


def test_whatever_leaves_the_process_is_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEAVIATE_API_KEY", "the-api-key")
    get_settings.cache_clear()
    assert mask("illegal header 'Bearer the-api-key'") == "illegal header 'Bearer ***'"
    get_settings.cache_clear()


def test_no_text_of_others_begins_a_line_of_the_log(written: Callable[..., str]) -> None:
    forged = "x\n1999-11-26 12:00:00,000 [PROCESSOR] ERROR forged\x1b[2J\u202e"

    def log() -> None:
        logging.warning("answer: %s", forged)
        fail_with(forged)

    text = written(log)
    assert text.count("forged") == 2
    assert not [line for line in text.splitlines() if line.startswith("1999")]
    assert "\x1b" not in text and "\u202e" not in text


def test_what_controls_a_terminal_or_turns_its_text_is_not_printed() -> None:
    hostile = "a\x1b[2Jb\r\nc\u202ed\u2066e\u200bf\x9bg\u2028h"
    assert printable(hostile) == "a [2Jb  c d e f g h"
    assert printable("Schnee über dem Grat – 雪") == "Schnee über dem Grat – 雪"


def test_a_secret_of_a_letter_or_two_does_not_mask_ordinary_words(
    written: Callable[..., str],
) -> None:
    text = written(lambda: logging.warning("a cat sat"), sage_pass=SecretStr("a"))
    assert "a cat sat" in text


def test_an_error_that_nobody_caught_ends_with_a_tagged_line_without_secrets() -> None:
    code = (
        "from weavloader.logs import configure_logging\n"
        "from weavloader.settings import load_settings\n"
        "configure_logging('main', load_settings(sage_pass='very-secret'))\n"
        "raise ValueError('with very-secret')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "[MAIN] CRITICAL unforeseen error" in done.stderr
    assert "ValueError: with ***" in done.stderr
    assert "very-secret" not in done.stderr
