"""Waiting out an outage of Triton or the store, so that it costs waiting and not work.

The circuit breaker of a worker's process. A task whose dependency is down waits in its place
instead of spending its retries, which also keeps the process from taking the next one: what
waits stays queued, and nothing floods the dead letters. The circuit closes by itself when the
dependency answers a light question of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from metrics import metrics
from weavloader.errors import Component, ConfigError, Reason, TransientError, WeavloaderError

# Within the soft time limit of a task, with room for the image itself after the wait.
MOST_SECONDS = 240.0
PROBE_SECONDS = 2.0
# What can be waited for: its probe tells when it is back.
_COMPONENTS = (Component.TRITON, Component.STORE)
# The model answered, so its server is up.
_ANSWERED = (Reason.MODEL_ERROR, Reason.BAD_ANSWER, Reason.BAD_EMBEDDING)

logger = logging.getLogger(__name__)

Probe = Callable[[], object]


class StillDownError(TransientError):
    """A dependency did not come back in the time that a task may wait."""


class Outages:
    """The circuits of one process.

    Args:
        probes: By component, a question that raises ``TransientError`` while it is down, or
            ``ConfigError`` until the operator has mended it.
        is_stopping: Whether the worker is asked to stop.
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

    def waited_out(self, error: WeavloaderError) -> bool:
        """Whether the error came of an outage, which is over now.

        Raises:
            StillDownError: It lasts.
        """
        component = component_of(error)
        if component is None or not self._is_down(component):
            return False
        self._wait(component, error)
        return True

    def _wait(self, component: str, error: WeavloaderError) -> None:
        logger.warning("%s is down, work waits for it: %s", component, error)
        metrics.set_circuit(component, True)
        began = time.monotonic()
        while self._is_down(component):
            if self._is_stopping() or time.monotonic() - began > MOST_SECONDS:
                raise StillDownError(f"{component} is still down: {error}", reason=error.reason)
            self._sleep(PROBE_SECONDS)
        metrics.set_circuit(component, False)
        logger.warning("%s is back after %.0f s", component, time.monotonic() - began)

    def _is_down(self, component: str) -> bool:
        try:
            self._probes[component]()
        except (TransientError, ConfigError):
            return True
        return False


def component_of(error: WeavloaderError) -> str | None:
    """The dependency that an error speaks of, where it is one that can be waited for."""
    if error.reason in _ANSWERED or error.reason.component not in _COMPONENTS:
        return None
    return error.reason.component
