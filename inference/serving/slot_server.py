"""Requests in slots: who gets a free one, who has given up, and what happens when memory ends."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from . import metrics
from .batching import Waiting, never

Item = TypeVar("Item")
Read = TypeVar("Read", contravariant=True)
Result = TypeVar("Result")

_ABANDONED_SECONDS = 0.25
"""Between two looks at which callers have given up: Triton is asked about each of them."""

logger = logging.getLogger(__name__)


class Decoder(Protocol[Read, Result]):
    """What writes the answers; all calls come from one thread."""

    @property
    def slots(self) -> int:
        """Answers that can be written at once; their numbers are 0 to ``slots - 1``."""

    def fits(self, item: Read) -> bool:
        """Whether prompt and answer fit into a slot."""

    def whole(self, item: Read) -> Result:
        """The answer to an item that does not fit."""

    def start(self, slots: Sequence[int], items: Sequence[Read]) -> None:
        """Read items into free slots."""

    def advance(self, occupied: Sequence[int]) -> None:
        """Begin to write on; what writes may go on with that after the return."""

    def ended(self, occupied: Sequence[int]) -> list[int]:
        """The slots whose answers are complete, when that is written."""

    def results(self, slots: Sequence[int]) -> list[Callable[[], Result]]:
        """The complete answers in ``slots``, read now and made when they are called."""

    def stop(self, slot: int) -> None:
        """End the answer in ``slot``: nobody waits for it."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether fewer slots would have helped."""

    def shrink(self) -> bool:
        """Halve the slots, forgetting all answers; ``False`` if there is only one."""


class SlotServer(Generic[Item, Result]):
    """A thread that keeps the slots of a decoder busy. Every submitted item gets a reply.

    What a GPU does goes on meanwhile: replies are sent, and callers asked, during the next step.
    Reading a few prompts costs nearly as much as reading many, and the answers under way stand
    still meanwhile: so requests gather, as for a batch, before they are read together.

    Args:
        group: The most items that are read at once.
        delay: Seconds that an item waits for the next one while no answer is under way.
        patience: Seconds that an item waits at most for others while all slots are taken but one;
            the fewer answers an item holds up, the less it waits.
        capacity: How many items may wait for a slot.
    """

    def __init__(
        self,
        decoder: Decoder[Item, Result],
        *,
        group: int,
        delay: float,
        patience: float,
        capacity: int,
    ) -> None:
        self._decoder = decoder
        self._group = group
        self._delay = delay
        self._patience = max(delay, patience)
        self._capacity = capacity
        self._waiting: deque[Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._active: dict[int, Waiting[Item, Result]] = {}
        self._written: list[tuple[Waiting[Item, Result], Callable[[], Result]]] = []
        self._looked = self._last_start = time.monotonic()
        self._show()
        self._thread = threading.Thread(target=self._serve, name="slots", daemon=True)
        self._thread.start()

    def submit(
        self,
        item: Item,
        reply: Callable[[Result | Exception], None],
        is_abandoned: Callable[[], bool] = never,
    ) -> None:
        """Queue ``item``; blocks while ``capacity`` others wait for a slot.

        Args:
            reply: Called once, in the server's thread, with the result or the error.
            is_abandoned: Whether the caller has given up; asked before and during the answer.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._capacity)
            self._waiting.append(Waiting(item, reply, is_abandoned))
            self._changed.notify_all()

    def close(self) -> None:
        """Reply to everything that was submitted, then end the thread. Do not submit afterwards."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        while (group := self._next_group()) or self._active:
            try:
                if group:
                    self._reply()
                    self._start([each for each in group if not each.is_discarded()])
                else:
                    self._step()
            except Exception as error:
                # A fault of this code or of a caller's: a thread that ends answers nobody.
                logger.exception("decoding failed")
                self._fail([*self._active.values(), *group], error)
            if not self._active:
                self._reply()
            self._show()

    def _show(self) -> None:
        metrics.show(metrics.SLOTS, self._decoder.slots)
        metrics.show(metrics.IN_USE, len(self._active))
        metrics.show(metrics.WAITING, len(self._waiting))

    def _next_group(self) -> list[Waiting[Item, Result]]:
        """Who is read now: nobody while answers are under way and others may yet join.

        Blocks while there is nothing to do; after :meth:`close` it is empty if nobody waits.
        """
        with self._changed:
            if not self._active:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                self._gather()
            room = min(self._group, self._decoder.slots - len(self._active))
            if not self._is_due(room):
                return []
            group = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            self._changed.notify_all()
            return group

    def _gather(self) -> None:
        """Wait for more while they keep arriving."""
        group = min(self._group, self._decoder.slots)
        until = time.monotonic() + self._patience
        while 0 < len(self._waiting) < group and not self._is_closed:
            left = min(self._delay, until - time.monotonic())
            if left <= 0 or not self._changed.wait_for(self._has_more(len(self._waiting)), left):
                return

    def _has_more(self, before: int) -> Callable[[], bool]:
        return lambda: len(self._waiting) > before or self._is_closed

    def _is_due(self, room: int) -> bool:
        if not room or not self._waiting:
            return False
        if not self._active or self._is_closed or min(room, len(self._waiting)) >= self._group:
            return True
        share = len(self._active) / self._decoder.slots
        waited = time.monotonic() - max(self._waiting[0].since, self._last_start)
        return waited >= share * self._patience

    def _start(self, group: list[Waiting[Item, Result]]) -> None:
        for waiting in group:
            if not self._decoder.fits(waiting.item):
                self._answer_whole(waiting)
        group = [each for each in group if self._decoder.fits(each.item)]
        if not group:
            return
        self._last_start = time.monotonic()
        taken = self._free_slots()[: len(group)]
        if rest := group[len(taken) :]:  # fewer slots than when they were chosen
            self._put_back(rest)
            group = group[: len(taken)]
        error: Exception | None = None
        try:
            self._decoder.start(taken, [each.item for each in group])
        except Exception as caught:
            error = caught.with_traceback(None)  # which would keep the memory of the failed call
        if error is None:
            self._active.update(zip(taken, group, strict=True))
        elif self._decoder.is_out_of_memory(error):
            self._shrink(group, error)
        elif len(group) == 1:
            group[0].answer(error)
        else:
            # One by one, so that only the faulty one fails.
            for waiting in group:
                self._start([waiting])

    def _answer_whole(self, waiting: Waiting[Item, Result]) -> None:
        try:
            result: Result | Exception = self._decoder.whole(waiting.item)
        except Exception as error:
            result = error
        waiting.answer(result)

    def _step(self) -> None:
        error: Exception | None = None
        try:
            self._decoder.advance(sorted(self._active))
            self._reply()
            self._stop_abandoned()
            ended = self._decoder.ended(sorted(self._active))
            results = self._decoder.results(ended) if ended else []
        except Exception as caught:
            error = caught.with_traceback(None)
        if error is None:
            for slot, result in zip(ended, results, strict=True):
                self._written.append((self._active.pop(slot), result))
        elif self._decoder.is_out_of_memory(error):
            self._shrink([], error)
        else:
            self._fail(list(self._active.values()), error)

    def _reply(self) -> None:
        """Send the answers that are complete."""
        written, self._written = self._written, []
        for waiting, result in written:
            try:
                answer: Result | Exception = result()
            except Exception as error:
                answer = error
            waiting.answer(answer)

    def _shrink(self, group: list[Waiting[Item, Result]], error: Exception) -> None:
        """Have fewer slots, and let everyone begin again: the same item has the same answer."""
        everyone = sorted([*self._active.values(), *group], key=lambda each: each.since)
        self._active.clear()
        try:
            has_shrunk = self._decoder.shrink()
        except Exception as caught:
            has_shrunk, error = False, caught
        if has_shrunk:
            metrics.count(metrics.OUT_OF_MEMORY)
            logger.warning("out of memory: %d slots from now on", self._decoder.slots)
            self._put_back(everyone)
            return
        self._fail(everyone, error)

    def _fail(self, group: list[Waiting[Item, Result]], error: Exception) -> None:
        with suppress(Exception):  # a GPU that has failed answers no call
            for slot in self._active:
                self._decoder.stop(slot)
        self._active.clear()
        for waiting in group:
            waiting.answer(error)

    def _put_back(self, group: list[Waiting[Item, Result]]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed(group))

    def _stop_abandoned(self) -> None:
        if time.monotonic() - self._looked < _ABANDONED_SECONDS:
            return
        for slot, waiting in list(self._active.items()):
            if waiting.is_discarded(has_begun=True):
                self._decoder.stop(slot)
                del self._active[slot]
        self._looked = time.monotonic()

    def _free_slots(self) -> list[int]:
        """The lowest first: a step works on all up to the highest occupied."""
        return [slot for slot in range(self._decoder.slots) if slot not in self._active]
