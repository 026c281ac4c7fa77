"""Ends a role that SIGINT or SIGTERM asks to end: at any moment, in time, with exit code 0.

Python runs signal handlers in the main thread only. While a role starts there is none of its
own yet; later the main thread may hang in a library that waits for Redis, and Celery and Flower
put handlers of their own in the place of ours. The interpreter's wakeup descriptor sees every
signal all the same, so a thread that reads it ends the process when nothing else did.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A role has this long to end in its own way, of the 3 s that are promised.
GRACE_SECONDS = 2.0
_LOOK_SECONDS = 0.1

_asked = Event()
_is_busy: Callable[[], bool] = bool


def end_on_signal() -> None:
    """From now on SIGINT and SIGTERM end this process with exit code 0.

    Until the role has a handler of its own they end it at once; with one, they end it at the
    latest :data:`GRACE_SECONDS` after the signal, or after :func:`finish_first` allows it.
    Call it from the main thread; further calls do nothing.
    """
    if signal.getsignal(signal.SIGTERM) is _end:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A child's signals are its own: its parent must not take them for signals to itself.
    os.register_at_fork(after_in_child=_forget)
    Thread(target=_end_in_time, args=(reader,), name="shutdown", daemon=True).start()
    # Registered first, so that it runs last.
    atexit.register(_end_with_success)
    for number in SIGNALS:
        signal.signal(number, _end)


def finish_first(is_busy: Callable[[], bool]) -> None:
    """Let the process go on after a signal for as long as ``is_busy`` says so."""
    global _is_busy
    _is_busy = is_busy


def _end(*_: object) -> None:
    """Handle a signal before the role does: an exception might be lost in an import."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        sys.exit(0)  # Flower is up, and saves its state at exit
    os._exit(0)


def _end_in_time(reader: int) -> None:
    while not {*os.read(reader, 64)} & {*SIGNALS}:
        pass
    _asked.set()
    while _is_busy():
        time.sleep(_LOOK_SECONDS)
    time.sleep(GRACE_SECONDS)
    os._exit(0)


def _end_with_success() -> None:
    """A role that was asked to end has not failed, whatever broke on the way out."""
    if _asked.is_set():
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)


def _forget() -> None:
    signal.set_wakeup_fd(-1)
    _asked.clear()
