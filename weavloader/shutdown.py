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
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A role has this long to end in its own way, of the 3 s that are promised; then what it gives
# back has this long.
GRACE_SECONDS = 1.5
GIVE_BACK_SECONDS = 1.1
_LOOK_SECONDS = 0.1
_MOST_NUMBERS = 4096

# What the interpreter writes the numbers of signals to; those of SIGNALS stay in it.
_inbox: socket.socket | None = None
_outbox: socket.socket | None = None
_is_getting_on: Callable[[], bool] = bool
_give_back: Callable[[], object] = bool


def end_on_signal() -> None:
    """From now on SIGINT and SIGTERM end this process with exit code 0.

    Until the role has a handler of its own they end it at once; with one, they end it at the
    latest :data:`GRACE_SECONDS` after the signal, unless :func:`finish_first` allows more.
    Call it from the main thread; further calls do nothing.
    """
    global _inbox, _outbox
    if _inbox is not None:
        return
    _inbox, _outbox = socket.socketpair()
    _outbox.setblocking(False)
    signal.set_wakeup_fd(_outbox.fileno(), warn_on_full_buffer=False)
    # A child's signals are its own: its parent must not take them for signals to itself.
    os.register_at_fork(after_in_child=_forget)
    Thread(target=_end_in_time, args=(_inbox,), name="shutdown", daemon=True).start()
    # Registered first, so that it runs last.
    atexit.register(_end_with_success)
    for number in SIGNALS:
        signal.signal(number, _end)


def finish_first(is_getting_on: Callable[[], bool], give_back: Callable[[], object]) -> None:
    """Let the process go on after a signal while its work is getting on.

    Args:
        is_getting_on: Whether there is news of the work, since it was asked last; never waits.
        give_back: Called when there was none for :data:`GRACE_SECONDS`, before the process is
            ended; it may take :data:`GIVE_BACK_SECONDS`.
    """
    global _is_getting_on, _give_back
    _is_getting_on, _give_back = is_getting_on, give_back


def _end(*_: object) -> None:
    """Handle a signal before the role does: an exception might be lost in an import."""
    # It may be half imported, and must not be imported here.
    running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", bool)
    if running_loop():
        sys.exit(0)  # Flower is up, and saves its state at exit
    os._exit(0)


def _end_in_time(inbox: socket.socket) -> None:
    while not {*(numbers := inbox.recv(_MOST_NUMBERS, socket.MSG_PEEK))} & {*SIGNALS}:
        inbox.recv(len(numbers))
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        if _is_getting_on():
            end = time.monotonic() + GRACE_SECONDS
    last = Thread(target=_give_back, name="give back", daemon=True)
    last.start()
    last.join(GIVE_BACK_SECONDS)
    os._exit(0)


def _end_with_success() -> None:
    """A role that was asked to end has not failed, whatever broke on the way out."""
    if _inbox is not None and _is_asked(_inbox):
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)


def _is_asked(inbox: socket.socket) -> bool:
    try:
        numbers = inbox.recv(_MOST_NUMBERS, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return bool({*numbers} & {*SIGNALS})


def _forget() -> None:
    global _inbox
    signal.set_wakeup_fd(-1)
    _inbox = None
