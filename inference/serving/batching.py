"""Batches of waiting requests, and the errors that a request is answered with.

Triton's own batching cannot be used: with the ``max_batch_size: 0`` of the contracts it passes
on one request at a time, and with a larger value it refuses the shapes of the contracts.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


# Items are not compared: an array would answer with an array.
@dataclass(slots=True, eq=False)
class Waiting(Generic[Item, Result]):
    """An item whose caller waits for a reply."""

    item: Item
    reply: Callable[[Result | Exception], None]
    is_abandoned: Callable[[], bool]
    since: float = field(default_factory=time.monotonic)

    def answer(self, result: Result | Exception) -> None:
        """Reply with the result or the error."""
        try:
            self.reply(result)
        except Exception:
            # The caller is gone; the others still wait.
            logger.exception("sending a reply failed")

    def is_discarded(self, has_begun: bool = False) -> bool:
        """Whether the caller has given up; then it has its reply."""
        if not self.is_abandoned():
            return False
        self.answer(AbandonedError(has_begun))
        return True


def never() -> bool:
    """That of a caller who cannot give up."""
    return False


class Batcher(Generic[Item, Result]):
    """A thread that runs up to ``size`` items per call. Every submitted item gets a reply.

    Args:
        run: Returns a result for each item, in the same order.
        size: Maximum number of items per call.
        delay: Seconds that a call waits for the next item; a lone item pays them.
            Items that arrive during a call are part of the next one.
        patience: Seconds that the first item of a call waits at most while others keep arriving,
            never less than ``delay``.
        capacity: How many items may wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        size: int,
        delay: float,
        patience: float,
        capacity: int,
    ) -> None:
        self._run = run
        self._size = size
        self._delay = delay
        self._patience = max(delay, patience)
        self._waiting: queue.Queue[Waiting[Item, Result] | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._serve, name="batcher", daemon=True)
        self._thread.start()

    def submit(
        self,
        item: Item,
        reply: Callable[[Result | Exception], None],
        is_abandoned: Callable[[], bool] = never,
    ) -> None:
        """Queue ``item``; blocks while ``capacity`` others wait.

        Args:
            reply: Called once, in the batcher's thread, with the result or the error.
            is_abandoned: Whether the caller has given up; called before the run, so that an
                overloaded server spends no time on late answers.
        """
        self._waiting.put(Waiting(item, reply, is_abandoned))

    def close(self) -> None:
        """Reply to everything that was submitted, then end the thread. Do not submit afterwards."""
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        open_ = True
        while open_:
            gathered, open_ = self._next_batch()
            batch = [waiting for waiting in gathered if not waiting.is_discarded()]
            results = self._results([waiting.item for waiting in batch])
            for waiting, result in zip(batch, results, strict=True):
                waiting.answer(result)

    def _next_batch(self) -> tuple[list[Waiting[Item, Result]], bool]:
        """The next batch, and whether more may follow."""
        first = self._waiting.get()
        if first is None:
            return [], False
        batch, until = [first], time.monotonic() + self._patience
        while len(batch) < self._size:
            try:
                left = max(0.0, until - time.monotonic())
                waiting = self._waiting.get(timeout=min(self._delay, left))
            except queue.Empty:
                break
            if waiting is None:
                return batch, False
            batch.append(waiting)
        return batch, True

    def _results(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        if not items:
            return []
        try:
            results = self._run(items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
            return results
        except Exception as error:
            if len(items) == 1:
                return [error]
            # One by one, so that only the faulty item fails, or none if the batch was too large.
            return [self._results([item])[0] for item in items]


class InputError(ValueError):
    """The input breaks the contract or a limit: sending it again cannot succeed."""


class AbandonedError(RuntimeError):
    """The caller has given up, so the model is not run for the request, or no further."""

    def __init__(self, has_begun: bool = False) -> None:
        super().__init__(f"{'stopped' if has_begun else 'not run'}: the caller has given up")


class OutputError(RuntimeError):
    """The output of the model is unusable: blank text, NaN or infinity."""
