"""Flower's configuration file: ``celery -A job_system flower --conf=job_system/flower_config.py``.

Flower executes this file and takes the names that are options of its own; nothing else here
may bear the name of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from socket import socket
from typing import Any

import flower.app
from flower.views import BaseHandler
from tornado.netutil import bind_sockets
from tornado.web import HTTPError

from job_system.app import InvalidSetting
from metrics import metrics
from metrics.http import BoundedServer
from weavloader.accounts import Account, PasswordCheck, TooManyGuesses
from weavloader.logs import masker
from weavloader.settings import get_settings

MAX_TEXT = 300
_SHOWN_TEXTS = ("args", "kwargs", "result", "exception", "traceback")


def format_task(task: Any) -> Any:
    """Shorten a task's arguments and results, and mask secrets among them."""
    for name in _SHOWN_TEXTS:
        text = getattr(task, name, None)
        if text:
            setattr(task, name, _shortened(_without_secrets(str(text))))
    return task


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def guard_flower(accounts: Sequence[Account]) -> None:
    """Let only these accounts into the Flower of this process.

    Wrong passwords are logged, counted and slowed down. Flower compares them itself, but lets a
    program guess 1,800 in a second without a word, and answers one that is not ASCII with a
    traceback.
    """
    passwords = PasswordCheck(accounts, lambda: metrics.count_wrong_password("flower"))

    def current_user(handler: BaseHandler) -> str:
        request = handler.request
        try:
            account = passwords.find(
                request.headers.get("Authorization", ""), request.remote_ip or ""
            )
        except TooManyGuesses as error:
            handler.set_header("Retry-After", str(error.seconds))
            raise HTTPError(429, str(error)) from None
        if account is None:
            raise HTTPError(401)
        return account.name

    BaseHandler.get_current_user = current_user
    flower.app.HTTPServer = BoundedServer  # its connections have no cap of their own


def _bind(port: int, address: str | None = None) -> list[socket]:
    """Listen where Flower is told to; an address that cannot be bound is one line, no traceback."""
    try:
        return bind_sockets(port, address)
    except OSError as error:
        raise InvalidSetting(f"cannot listen on {address}:{port}: {error.strerror}") from error


def _choose_address() -> str:
    """Where Flower listens; with the published default password, here only unless told otherwise.

    In the all-in-one container it is told otherwise: at loopback nobody outside would reach it.
    """
    given = _settings.flower_address
    if not _settings.has_default_account:
        return given
    is_told = "flower_address" in _settings.model_fields_set
    chosen = given if is_told else "127.0.0.1"
    getLogger(__name__).warning(
        "Flower is guarded by the published default password and listens on %s, %s: set "
        "FLOWER_BASIC_AUTH",
        chosen,
        "since FLOWER_ADDRESS says so" if is_told else "not on other addresses",
    )
    return chosen


_settings = get_settings()
_without_secrets = masker(_settings)
# Flower knows no roles: where it may change things, those who may not stay outside.
_accounts = [each for each in _settings.accounts() if each.may_change or _settings.flower_read_only]
guard_flower(_accounts)
flower.app.bind_sockets = _bind

basic_auth = [account.credentials for account in _accounts]
read_only = _settings.flower_read_only
address = _choose_address()
port = _settings.flower_port
logging = _settings.log_level.lower()
persistent = bool(_settings.flower_db)
db = _settings.flower_db or "flower"
# At its end too, but it may be killed.
state_save_interval = 60_000 if persistent else 0
# Flower keeps every task and worker it ever saw unless told otherwise.
max_tasks = 2_000  # 5 KB each
max_workers = 1_000
purge_offline_workers = 3600
# Queue lengths come from the metrics server; Flower needs no way into the broker of its own.
broker_api = None
