"""Running together what waits together.

Triton's own batching cannot be used: with the ``max_batch_size: 0`` of the contracts it hands
over one request at a time, and with more the shapes of the contracts are refused.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import AbandonedError

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    reply: Callable[[Result | Exception], None]
    is_abandoned: Callable[[], bool]


def _never() -> bool:
    return False


class Batcher(Generic[Item, Result]):
    """A thread that runs up to ``size`` items in one call. Every item submitted is answered.

    Args:
        run: Gives a result for each item, in their order.
        size: The most items of one call.
        delay: Seconds that the first item of a call waits for others; a lone one waits them
            too. While a call runs, those that come gather for the next.
        capacity: How many items may wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        size: int,
        delay: float,
        capacity: int,
    ) -> None:
        self._run = run
        self._size = size
        self._delay = delay
        self._waiting: queue.Queue[_Waiting[Item, Result] | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._serve, name="batcher", daemon=True)
        self._thread.start()

    def submit(
        self,
        item: Item,
        reply: Callable[[Result | Exception], None],
        is_abandoned: Callable[[], bool] = _never,
    ) -> None:
        """Hand over ``item``; waits while ``capacity`` others do.

        Args:
            reply: Called once, in the batcher's thread, with the result or why there is none.
            is_abandoned: Whether nobody waits for the reply any more; asked before the run, so
                that a server that is behind spends no time on answers that come too late.
        """
        self._waiting.put(_Waiting(item, reply, is_abandoned))

    def close(self) -> None:
        """Answer all that was submitted, then end. Nothing may be submitted from then on."""
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        open_ = True
        while open_:
            gathered, open_ = self._next_batch()
            batch = [waiting for waiting in gathered if not self._is_dropped(waiting)]
            results = self._results([waiting.item for waiting in batch])
            for waiting, result in zip(batch, results, strict=True):
                self._reply(waiting, result)

    def _next_batch(self) -> tuple[list[_Waiting[Item, Result]], bool]:
        """What runs next, and whether more may follow."""
        batch: list[_Waiting[Item, Result]] = []
        deadline = float("inf")
        while len(batch) < self._size:
            patience = max(0.0, deadline - time.monotonic()) if batch else None
            try:
                waiting = self._waiting.get(timeout=patience)
            except queue.Empty:
                break
            if waiting is None:
                return batch, False
            if not batch:
                deadline = time.monotonic() + self._delay
            batch.append(waiting)
        return batch, True

    def _is_dropped(self, waiting: _Waiting[Item, Result]) -> bool:
        if not waiting.is_abandoned():
            return False
        self._reply(waiting, AbandonedError())
        return True

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
            # One by one, so that only the item at fault fails (or too large a batch at once).
            return [self._results([item])[0] for item in items]

    def _reply(self, waiting: _Waiting[Item, Result], result: Result | Exception) -> None:
        try:
            waiting.reply(result)
        except Exception:
            # Whoever asked is gone; the others still wait.
            logger.exception("a reply could not be sent")
