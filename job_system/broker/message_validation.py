"""Message validation: which messages of a queue are tasks of ours.

Anything can be put on a queue by whoever reaches the broker. Celery discards what it cannot read
and logs a line; a message that is not even JSON ends the worker that receives it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Container
from datetime import datetime
from typing import Any

from weavloader.errors import Reason

# The longest fields an image may have come to some 10 KB.
MAX_BYTES = 256 * 1024


def rejection_reason(raw: bytes, tasks: Container[str]) -> Reason | None:
    """Why a message is rejected; ``None`` if it is a valid task of ours.

    Args:
        raw: The message as it lies in Redis.
        tasks: Names of the registered tasks.
    """
    if len(raw) > MAX_BYTES:
        return Reason.MESSAGE_TOO_LARGE
    try:
        return None if _task_name(json.loads(raw)) in tasks else Reason.UNKNOWN_TASK
    except (ValueError, TypeError, KeyError, RecursionError):
        return Reason.MALFORMED_MESSAGE


def _task_name(message: dict[str, Any]) -> str:
    """The task's name, after a check of all that Celery and kombu take for granted."""
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
