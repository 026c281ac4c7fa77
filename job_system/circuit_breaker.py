"""The circuit breaker of a worker's process: one circuit each for Triton and the store.

A task whose dependency is down waits instead of spending its retries. That also keeps the
process from receiving the next task: the rest stays queued, and nothing floods the dead letters.
A circuit closes when a probe of its dependency succeeds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from metrics import metrics
from metrics.health import Probe
from weavloader.errors import Component, ConfigError, Reason, TransientError, WeavloaderError

# Within the soft time limit of a task, with room for the image itself after the wait.
MAX_WAIT_SECONDS = 240.0
PROBE_SECONDS = 2.0
# Components with a probe.
_COMPONENTS = (Component.TRITON, Component.STORE)
# The model answered, so its server is up.
_ANSWERED = (Reason.MODEL_ERROR, Reason.BAD_ANSWER, Reason.BAD_EMBEDDING)

logger = logging.getLogger(__name__)


class CircuitOpenError(TransientError):
    """A circuit stayed open for as long as a task may wait."""


class CircuitBreaker:
    """The circuits of one process.

    Args:
        probes: By component; raises ``TransientError`` while it is down, or ``ConfigError``
            while its configuration is wrong.
        is_stopping: Whether the worker is shutting down.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        probes: Mapping[str, Probe],
        is_stopping: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._probes = probes
        self._is_stopping = is_stopping
        self._sleep = sleep

    def wait_until_closed(self, error: WeavloaderError) -> bool:
        """Wait while the circuit of an error's component is open.

        Returns:
            Whether it was open, so that the work should be tried again at once.

        Raises:
            CircuitOpenError: It is still open after :data:`MAX_WAIT_SECONDS`, or the worker stops.
        """
        component = component_of(error)
        if component is None or not self._is_down(component):
            return False
        self._wait(component, error)
        return True

    def _wait(self, component: str, error: WeavloaderError) -> None:
        logger.warning("circuit breaker of %s open: %s", component, error)
        metrics.set_circuit(component, True)
        began = time.monotonic()
        while self._is_down(component):
            if self._is_stopping() or time.monotonic() - began > MAX_WAIT_SECONDS:
                raise CircuitOpenError(
                    f"circuit breaker of {component} still open: {error}", reason=error.reason
                )
            self._sleep(PROBE_SECONDS)
        metrics.set_circuit(component, False)
        logger.warning(
            "circuit breaker of %s closed after %.0f s", component, time.monotonic() - began
        )

    def _is_down(self, component: str) -> bool:
        try:
            self._probes[component]()
        except (TransientError, ConfigError):
            return True
        return False


def component_of(error: WeavloaderError) -> str | None:
    """The component of an error, where it has a circuit; ``None`` if it did answer."""
    if error.reason in _ANSWERED or error.reason.component not in _COMPONENTS:
        return None
    return error.reason.component
