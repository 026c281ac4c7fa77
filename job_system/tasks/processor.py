"""The task of one image: what happens to it when something fails."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from job_system import late_uploads
from job_system.app import celery_app, lane_of, queued_at
from job_system.celery_config import TASKS, retry_delay
from job_system.circuit_breaker import CircuitOpenError
from job_system.dependencies import circuit_breaker, dead_letters, pipeline, redis_client
from metrics import metrics
from metrics.metrics import Arrival
from processing import Outcome, Pipeline, Stages, process_image, reprocess_image
from weavloader import redis_keys, traces
from weavloader.dlq.queue import FailedTask, describe
from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError
from weavloader.images.job import ImageJob, image_id_in
from weavloader.redis_connection import RedisClient, shared_moment, shared_now
from weavloader.reprocessing import Rework
from weavloader.settings import Settings, get_settings

# Where one of several servers fails, an image may fail at each of its attempts by chance.
MAX_WIDESPREAD_SECONDS = 86400.0
# An image queued longer after its capture than this was uploaded late.
LATE_SECONDS = 3600.0
MAX_ATTEMPTS = 3
_REMEMBERED_SECONDS = 86400

logger = logging.getLogger(__name__)


class _Deferred(Exception):
    """The image's file is not there yet, and its task was sent again: this run has no outcome.

    Args:
        pause: Seconds before the task starts again.
        why: One line for the log.
    """

    def __init__(self, pause: float, why: str) -> None:
        # All of them: it is built anew from these in the worker's main process, which ends if it
        # cannot be.
        super().__init__(pause, why)
        self.pause = pause
        self.why = why


@celery_app.task(
    name=TASKS + "process_image_task", bind=True, max_retries=None, throws=(WeavloaderError,)
)
def process_image_task(self: Task, image_data: object = None, *_: object, **__: object) -> None:
    """Bring one image into the store, or its failure into the dead-letter queue.

    What else a message holds is ignored, such as ``_dlq_attempt`` of the reference deployment:
    a message that did not fit the task would fail without a dead letter.
    """
    request = self.request
    header = request.get(traces.HEADER)
    with traces.processing(_image_id(self), header, request.retries, str(request.hostname)):
        _run(self, image_data, Stages())


def _run(self: Task, image_data: object, stages: Stages) -> None:
    """As :func:`process_image_task`."""
    try:
        with counted_attempt(redis_client(), self.request.id, self.request.retries):
            _process(self, image_data, stages)
    except MemoryError as error:
        # Celery would raise it once more in the worker's main process, which would end.
        _after_failure(self, _out_of_memory(error), stages)
    except SoftTimeLimitExceeded:
        _after_failure(self, TransientError("it took too long", reason=Reason.TIME_LIMIT), stages)
    except CircuitOpenError as error:
        log_image(logging.WARNING, _image_id(self), "requeued", stages, str(error))
        raise Reject(error, requeue=True) from error
    except _Deferred as deferred:
        outcome = f"asked for again in {deferred.pause:.0f} s"
        log_image(logging.INFO, _image_id(self), outcome, stages, deferred.why)
        # The worker's main process gets it pickled, which only Celery's own survives.
        raise Ignore(deferred.why) from None
    except Reject:
        raise
    except Exception as error:
        _after_failure(self, error, stages)


def log_image(
    level: int, image_id: str, outcome: str, stages: Stages, detail: str | None = None
) -> None:
    """Log how a run ended: the id of the image, outcome and stage times.

    Args:
        level: Of :mod:`logging`.
        outcome: A short word or two.
        detail: Why, or the node of the image.
    """
    times = " ".join(f"{stage}={seconds:.2f}s" for stage, seconds in stages.seconds.items())
    text = " ".join(part for part in ("image", image_id, outcome, times) if part)
    traces.note(outcome=outcome)
    seconds = {stage: round(seconds, 3) for stage, seconds in stages.seconds.items()}
    extra = {"image": image_id, "outcome": outcome, "seconds": seconds}
    logger.log(level, "%s%s", text, f": {detail}" if detail else "", extra=extra)


def _process(task: Task, image_data: object, stages: Stages) -> None:
    request = task.request
    job = ImageJob.from_message(image_data, shared_moment(redis_client()))
    rework = Rework.from_message(image_data)
    traces.note_job(job)
    try:
        outcome = _process_behind_breaker(job, rework, task, stages)
    finally:
        for stage, seconds in stages.seconds.items():
            metrics.observe_stage(stage, seconds)
    was_late = late_uploads.resolve(redis_client(), job)
    dead_letters().resolve(request.id, job.id)
    metrics.count_outcome(outcome)
    settings = get_settings()
    if outcome in (Outcome.STORED, Outcome.REPROCESSED) and settings.preview_models:
        metrics.count_preview(settings.has_sage_account)
    if outcome is Outcome.STORED:
        captured, now = job.captured_at.timestamp(), time.time()
        arrival = "late" if was_late else arrival_of(request, captured, now)
        metrics.observe_searchable(arrival, max(0.0, now - captured))
    log_image(logging.INFO, job.id, outcome, stages, f"vsn={job.vsn}")


def arrival_of(request: Any, captured: float, now: float) -> Arrival:
    """How an image came to its queue.

    SAGE tells when an image was captured, not when it was uploaded. One that is queued long after
    its capture was uploaded late, and says nothing of this system's own delay.

    Args:
        request: Celery's, of the running task.
        captured: Unix seconds, as ``now``.
    """
    if lane_of(request) == redis_keys.LOW_LANE:
        return "low"
    return "late" if (queued_at(request) or now) - captured > LATE_SECONDS else "live"


def _process_behind_breaker(
    job: ImageJob, rework: Rework | None, task: Task, stages: Stages
) -> Outcome:
    """Process an image, or what is ordered of a stored one; wait while a circuit is open."""

    def work() -> Outcome:
        if rework is None:
            return _process_uploaded(task, job, stages)
        return reprocess_image(job, rework, _pipeline(stages), stages)

    return circuit_breaker().run(job.id, stages, work)


def _pipeline(stages: Stages) -> Pipeline:
    """This process's pipeline, which opens the store; that fails as a look-up in it does."""
    try:
        return pipeline()
    except WeavloaderError:
        stages.failed = "lookup"
        raise


def _process_uploaded(task: Task, job: ImageJob, stages: Stages) -> Outcome:
    """Process an image, or send its task again while its file is not there yet."""
    try:
        return process_image(job, _pipeline(stages), stages)
    except TransientError as error:
        if error.reason is not Reason.NOT_YET_UPLOADED:
            raise
        try:
            pause = late_uploads.defer(redis_client(), task, job)
        except (RedisError, OperationalError) as outage:
            raise Reject(outage, requeue=True) from error
        if pause is None:
            raise PermanentError(str(error), reason=Reason.NOT_FOUND) from error
        raise _Deferred(pause, describe(error)) from error


def _after_failure(task: Task, error: Exception, stages: Stages) -> None:
    """Retry a failure that may pass, else dead-letter it; only then acknowledge the message."""
    settings = get_settings()
    metrics.count_error("processor", traces.reason_of(error))
    traces.note_failure(error)
    try:
        dead_letters().note_failure(task.request.id)
        if isinstance(error, PermanentError) or _is_out_of_retries(task, error, stages, settings):
            _dead_letter(task, error, stages)
            raise error
        _retry(task, error, stages, settings)
    except (RedisError, OperationalError) as outage:
        # Neither could be done: the message stays on the queue.
        raise Reject(outage, requeue=True) from error


def _is_out_of_retries(task: Task, error: Exception, stages: Stages, settings: Settings) -> bool:
    """Whether an image was tried often enough; for up to a day not while many fail alike."""
    if task.request.retries < settings.max_retries:
        return False
    age = shared_now(redis_client()) - dead_letters().first_failure(task.request.id)
    return age > MAX_WIDESPREAD_SECONDS or not circuit_breaker().is_widespread(error, stages)


def _out_of_memory(error: MemoryError) -> TransientError:
    found = TransientError(f"out of memory: {error}", reason=Reason.OUT_OF_MEMORY)
    found.__cause__ = error
    return found


def _retry(task: Task, error: Exception, stages: Stages, settings: Settings) -> NoReturn:
    delay = retry_delay(task.request.retries, settings)
    # By a clock that all workers share: that of this host may be hours ahead.
    due = shared_moment(redis_client()) + timedelta(seconds=delay)
    metrics.count_retry(task.name, traces.reason_of(error))
    outcome = f"retried in {delay:.0f} s"
    log_image(logging.WARNING, _image_id(task), outcome, stages, describe(error))
    try:
        raise task.retry(exc=error, eta=due)
    except Reject as unpublished:
        # Celery would drop the message, of which the broker did not take another.
        raise Reject(unpublished.reason, requeue=True) from error


def _dead_letter(task: Task, error: Exception, stages: Stages) -> None:
    request = task.request
    failed = FailedTask(
        task_id=request.id,
        task=task.name,
        args=list(request.args),
        kwargs=dict(request.kwargs),
        retries=request.retries,
        worker=str(request.hostname),
        trace_id=traces.trace_id(),
    )
    text = "".join(traceback.format_exception(error))
    letter = dead_letters().write(failed, error, text)
    metrics.count_outcome("dead")
    if letter.reason == Reason.NODE_FORBIDDEN:
        metrics.count_forbidden(letter.label.vsn)
    log_image(logging.ERROR, letter.image_id, "dead", stages, letter.exc_message)


def _image_id(task: Task) -> str:
    """Id of the image of a run, whoever named the task; that of the task where there is none."""
    return image_id_in([task.request.args, task.request.kwargs]) or str(task.request.id)


@contextmanager
def counted_attempt(redis: RedisClient, task_id: str, retry: int) -> Iterator[None]:
    """Count an attempt, and forget it when the run inside ends in any way that Python sees.

    The count of a killed process stays. Celery's own mark of a repeated delivery,
    ``redelivered``, is no number and was seen to be wrong.

    Raises:
        PermanentError: :data:`MAX_ATTEMPTS` attempts ended with the death of their process.
    """
    key = redis_keys.deliveries(task_id, retry)
    with redis.pipeline(transaction=False) as pipe:
        pipe.incr(key)
        pipe.expire(key, _REMEMBERED_SECONDS)
        attempts, _ = pipe.execute()
    try:
        if attempts > MAX_ATTEMPTS:
            message = f"its process died {MAX_ATTEMPTS} times while it was worked on"
            raise PermanentError(message, reason=Reason.KILLS_ITS_PROCESS)
        yield
    finally:
        redis.delete(key)
