"""When a dead letter is reprocessed automatically.

A day after its last failure, then two days after the next, then four: images that failed during
an outage are reprocessed soon, and the others cost little until they are discarded.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from weavloader.dlq.queue import DeadLetter

# A permanent error is reprocessed a few times, in case a fix makes the image pass.
PERMANENT_RUNS = 3
# The daily run comes a little early for what failed just after the run of the day before.
_SLACK = timedelta(hours=12)


def runs(letter: DeadLetter, max_retries: int) -> int:
    """How often a dead letter's task was run with all its retries, at least once.

    Args:
        max_retries: Attempts that a run adds to the first one for a transient error.
    """
    attempts = 1 if letter.is_permanent else max_retries + 1
    return max(1, round(letter.attempts / attempts))


def is_hopeless(letter: DeadLetter, max_retries: int) -> bool:
    """Whether it is reprocessed only by hand."""
    return letter.is_permanent and runs(letter, max_retries) >= PERMANENT_RUNS


def is_due(letter: DeadLetter, now: datetime, max_retries: int) -> bool:
    """Whether the wait since its last failure is over: 1, 2, 4, … days after each run."""
    # 2**20 days is longer than any dead letter is kept, and more would not fit a timedelta.
    days = timedelta(days=2 ** min(runs(letter, max_retries) - 1, 20))
    return now - datetime.fromisoformat(letter.failed_at) >= days - _SLACK
