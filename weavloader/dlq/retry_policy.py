"""When a dead letter is tried again by itself.

A day after its last failure, then two days after the next, then four: what an outage broke
comes back soon, and what stays broken costs little until it is thrown away.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from weavloader.dlq.queue import DeadLetter

# A permanent error gets so few runs, for the day when a fix of ours makes the image pass.
PERMANENT_RUNS = 3
# The daily run comes a little early for what failed just after the run of the day before.
_SLACK = timedelta(hours=12)


def runs(letter: DeadLetter, max_retries: int) -> int:
    """How often a letter's task was run until it was given up, at least once.

    Args:
        max_retries: Tries that a run adds to its first for a failure that may pass.
    """
    starts = 1 if letter.is_permanent else max_retries + 1
    return max(1, round(letter.attempts / starts))


def is_hopeless(letter: DeadLetter, max_retries: int) -> bool:
    """Whether only a person should try it again."""
    return letter.is_permanent and runs(letter, max_retries) >= PERMANENT_RUNS


def is_due(letter: DeadLetter, now: datetime, max_retries: int) -> bool:
    """Whether its wait since the last failure is over: 1, 2, 4, … days, one for each run."""
    # 2**20 days is longer than any letter lives, and more would not fit a timedelta.
    days = timedelta(days=2 ** min(runs(letter, max_retries) - 1, 20))
    return now - datetime.fromisoformat(letter.failed_at) >= days - _SLACK
