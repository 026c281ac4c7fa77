"""Giving dead letters another try: one way for tasks, the command line and the pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from kombu.exceptions import BatchPublishError, OperationalError

from job_system.app import celery_app
from metrics import metrics
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.errors import Reason, TransientError

BATCH = 500


@dataclass(frozen=True, slots=True)
class Resubmission:
    """What became of letters that were to be tried again.

    Attributes:
        submitted: Task ids put back on their queue.
        already: Task ids that were, earlier, and have not ended since.
        unknown: Task ids of tasks that this version does not have.
    """

    submitted: tuple[str, ...] = ()
    already: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __add__(self, other: Self) -> Self:
        """Both together."""
        return type(self)(
            self.submitted + other.submitted,
            self.already + other.already,
            self.unknown + other.unknown,
        )


def resubmit(letters: Sequence[DeadLetter], dead_letters: DeadLetters) -> Resubmission:
    """Put letters' tasks back on their queue, behind all live ones, each under its own id.

    A letter stays until its image is stored, so failing again loses nothing.

    Raises:
        TransientError: The broker failed; those not put back can be tried again at once.
    """
    celery_app.loader.import_default_modules()
    known = [letter for letter in letters if letter.task in celery_app.tasks]
    free = dead_letters.claim([letter.task_id for letter in known])
    waiting = [letter for letter in known if letter.task_id in free]
    _submit(waiting, dead_letters)
    return Resubmission(
        submitted=_ids(waiting),
        already=_ids(letter for letter in known if letter.task_id not in free),
        unknown=_ids(letter for letter in letters if letter.task not in celery_app.tasks),
    )


def _submit(letters: Sequence[DeadLetter], dead_letters: DeadLetters) -> None:
    try:
        with celery_app.producer_or_acquire() as producer, producer.batch(BATCH):
            for letter in letters:
                celery_app.send_task(
                    letter.task,
                    letter.args,
                    letter.kwargs,
                    task_id=letter.task_id,
                    priority=redis_keys.LOW_PRIORITY,
                    ignore_result=True,
                    producer=producer,
                    retry=False,
                )
    except (BatchPublishError, OperationalError) as error:
        # Some may have been put there; one that is put there twice is stored once.
        dead_letters.release(_ids(letters))
        raise TransientError(f"broker: {error}", reason=Reason.REDIS_UNREACHABLE) from error
    for _ in letters:
        metrics.count_reprocessed("submitted")


def _ids(letters: Iterable[DeadLetter]) -> tuple[str, ...]:
    return tuple(letter.task_id for letter in letters)
