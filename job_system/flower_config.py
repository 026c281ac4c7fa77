"""Flower's configuration file: ``celery -A job_system flower --conf=job_system/flower_config.py``.

Flower executes this file and takes the names that are options of its own; nothing else here
may bear the name of one.
"""

from __future__ import annotations

from logging import getLogger
from typing import Any

from weavloader.logs import masker
from weavloader.settings import DEFAULT_FLOWER_AUTH, get_settings

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


_settings = get_settings()
_without_secrets = masker(_settings)
_given = _settings.flower_basic_auth.get_secret_value()
if _given == DEFAULT_FLOWER_AUTH:
    getLogger(__name__).warning(
        "Flower is guarded by the published default password: set FLOWER_BASIC_AUTH"
    )

basic_auth = [pair.strip() for pair in _given.split(",")]
address = _settings.flower_address
port = _settings.flower_port
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
