"""The circuit breaker: images wait for a dependency that fails, and spend no retries on it.

A circuit opens when a light probe says that the dependency is down, or, whatever the probe says,
when images fail at the same stage one after another: a model can fail while its server says
"ready". While one is open, one image of the whole fleet at a time tries; the others wait in their
processes, which keeps the rest on the queue. The first image that passes closes the circuit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from metrics.health import Probe
from processing import Stages
from weavloader import redis_keys
from weavloader.circuits import COMPONENTS, Circuit, Circuits
from weavloader.errors import ConfigError, PermanentError, TransientError, WeavloaderError
from weavloader.redis_connection import RedisClient, RenewedLock

# Within the soft time limit of a task, with room for the image itself after the wait.
MAX_WAIT_SECONDS = 240.0
PROBE_SECONDS = 2.0
_PAUSES = 8

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class CircuitOpenError(TransientError):
    """A circuit stayed open for as long as a task may wait, or when this image tried it."""


class CircuitBreaker:
    """The breaker of one process.

    Args:
        circuits: The fleet's.
        redis: Holds the lock of the image that tries.
        probes: By component; raises ``TransientError`` while it is down, or ``ConfigError``
            while its configuration is wrong.
        is_stopping: Whether the worker is shutting down.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        circuits: Circuits,
        redis: RedisClient,
        probes: Mapping[str, Probe],
        is_stopping: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._circuits = circuits
        self._redis = redis
        self._probes = probes
        self._is_stopping = is_stopping
        self._sleep = sleep

    def run(self, image_id: str, stages: Stages, work: Callable[[], Result]) -> Result:
        """Do the work of an image; wait before it, and try it again, while a circuit is open.

        Args:
            stages: What the work says of itself.

        Raises:
            CircuitOpenError: The image should go back to its queue.
        """
        began = time.monotonic()
        while True:
            stages.passed.clear()
            with self._admitted(began) as tried:
                try:
                    result = work()
                    _log_closed(tried, stages)
                    return result
                except (TransientError, ConfigError) as error:
                    circuit = self._opened_by(error, stages.failed, image_id, tried)
                    if circuit is None:
                        raise
                    if tried:
                        # Another image tries next: this one may be at fault itself.
                        self._pause()
                        raise _still_open(circuit) from error
                finally:
                    self._circuits.passed(stages.passed)

    def is_widespread(self, error: Exception, stages: Stages) -> bool:
        """Whether an image failed by a fault that many have, so that it should be tried again."""
        return is_of_dependency(error) and self._circuits.is_failing(stages.failed)

    @contextmanager
    def _admitted(self, began: float) -> Iterator[list[Circuit]]:
        """Wait until an image may be worked on; the open circuits that it tries."""
        while circuits := self._circuits.opened():
            self._circuits.keep_open(circuits)
            with RenewedLock(self._redis, redis_keys.CIRCUIT_TRIAL).held(0) as is_alone:
                if is_alone and not any(self._is_down(each.component) for each in circuits):
                    yield circuits
                    return
                if is_alone:
                    self._pause()
            if self._is_stopping() or time.monotonic() - began > MAX_WAIT_SECONDS:
                raise _still_open(circuits[0])
            if not is_alone:
                self._pause()
        yield []

    def _pause(self) -> None:
        """Wait before the next image tries, and no longer than the worker goes on."""
        for _ in range(_PAUSES):
            if not self._is_stopping():
                self._sleep(PROBE_SECONDS / _PAUSES)

    def _opened_by(
        self, error: WeavloaderError, stage: str, image_id: str, tried: list[Circuit]
    ) -> Circuit | None:
        """The circuit that a failure opens or keeps open; ``None`` if it may be the image's."""
        if not stage or not is_of_dependency(error):
            return None
        is_first = all(each.stage != stage for each in tried)
        in_a_row = self._circuits.failed(stage, image_id)
        if is_first and not in_a_row and not self._is_down(error.reason.component):
            return None
        if is_first:
            logger.warning(
                "circuit of %s opened at stage %s: %s", error.reason.component, stage, error
            )
        return self._circuits.open(stage, error.reason)

    def _is_down(self, component: str) -> bool:
        try:
            self._probes.get(component, lambda: None)()
        except (TransientError, ConfigError):
            return True
        return False


def is_of_dependency(error: Exception) -> bool:
    """Whether an error is one of a dependency, rather than of an image or this process."""
    if not isinstance(error, WeavloaderError) or isinstance(error, PermanentError):
        return False
    return error.reason.component in COMPONENTS


def _log_closed(tried: Iterable[Circuit], stages: Stages) -> None:
    for circuit in tried:
        if circuit.stage in stages.passed:
            logger.warning("circuit closed, %s", circuit)


def _still_open(circuit: Circuit) -> CircuitOpenError:
    return CircuitOpenError(f"circuit of {circuit} is open", reason=circuit.reason)
