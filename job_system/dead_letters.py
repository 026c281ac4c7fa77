"""Writes dead letters, and holds them to what Redis has room for."""

from __future__ import annotations

import logging

from job_system.dependencies import dead_letters
from metrics import metrics
from weavloader.dlq.queue import DeadLetter, FailedTask

logger = logging.getLogger(__name__)


def dead_letter(failed: FailedTask, error: Exception, text: str) -> DeadLetter:
    """Write the dead letter of a task.

    Args:
        text: The traceback.

    Raises:
        RedisError: It may not have been written.
    """
    letter = dead_letters().write(failed, error, text)
    trim(letter)
    return letter


def trim(letter: DeadLetter) -> None:
    """Discard what is above the limits, of the node of ``letter`` and of all together."""
    for scope, amount in dead_letters().trim(letter.label.vsn).items():
        if amount:
            logger.error("discarded %d dead letters: too many of %s", amount, scope)
            metrics.count_capped(scope, amount)
