"""Which messages of a queue are ours.

Whoever reaches the broker can put anything on a queue. Celery drops what it cannot read with
a line in the log, and what is not even JSON ends the worker that takes it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Container
from datetime import datetime
from typing import Any

from weavloader.errors import Reason

# The longest fields an image may have come to some 10 KB.
MOST_BYTES = 256 * 1024


def reason_to_refuse(raw: bytes, tasks: Container[str]) -> Reason | None:
    """Why a message is no task of ours, as a short constant word; ``None`` when it is one.

    Args:
        raw: The message as it lies in Redis.
        tasks: Names of the tasks there are.
    """
    if len(raw) > MOST_BYTES:
        return Reason.MESSAGE_TOO_LARGE
    try:
        return None if _task_name(json.loads(raw)) in tasks else Reason.UNKNOWN_TASK
    except (ValueError, TypeError, KeyError, RecursionError):
        return Reason.MALFORMED_MESSAGE


def _task_name(message: dict[str, Any]) -> str:
    """The task's name, after a look at all that Celery and kombu take for granted."""
    headers, properties = message["headers"], message["properties"]
    args, kwargs, _ = json.loads(base64.b64decode(message["body"], validate=True))
    route = properties["delivery_info"]
    texts = (headers["id"], headers["task"], properties["delivery_tag"], route["routing_key"])
    if not all(isinstance(text, str) for text in texts) or type(headers["retries"]) is not int:
        raise TypeError
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise TypeError
    if message["content-type"] != "application/json":
        raise ValueError
    for moment in filter(None, (headers["eta"], headers["expires"])):
        datetime.fromisoformat(moment)
    return str(headers["task"])
