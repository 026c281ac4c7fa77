"""How a connection to the database waits for others, and its write-ahead log, which both share."""

from __future__ import annotations

import logging
import time

import apsw

_PAGES_BEFORE_CHECKPOINT = 1000  # 4 MB, SQLite's default
_PAGES_BEFORE_WAITING = 16_000  # 64 MB: from here on a checkpoint waits for readers
_CHECKPOINT_WAIT_MS = 500
_MAX_LOCK_PAUSE = 0.05

logger = logging.getLogger(__name__)


def use_log(connection: apsw.Connection, busy_seconds: float) -> None:
    """Use a write-ahead log; SQLite does not wait for another who begins one too."""
    end = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except apsw.BusyError:
            if time.monotonic() > end:
                raise
        time.sleep(_MAX_LOCK_PAUSE)


def limit_log(busy_ms: int, connection: apsw.Connection, name: str, pages: int) -> int:
    """Checkpoint as SQLite does by default, but wait for readers once the log has grown large.

    A passive checkpoint never waits, so it can never restart the log while there is always a
    reader. New readers do not delay a waiting checkpoint.
    """
    if pages >= _PAGES_BEFORE_CHECKPOINT:
        waiting = pages >= _PAGES_BEFORE_WAITING
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if waiting else apsw.SQLITE_CHECKPOINT_PASSIVE
        checkpoint(connection, mode, busy_ms, name)
    return apsw.SQLITE_OK


def checkpoint(connection: apsw.Connection, mode: int, busy_ms: int, name: str = "main") -> None:
    """Write the log to the file, unless readers or writers are in the way for long.

    Args:
        busy_ms: The connection's timeout, which is set again.
    """
    wait_for_locks(connection, _CHECKPOINT_WAIT_MS)
    try:
        connection.wal_checkpoint(name, mode)
    except apsw.BusyError:
        logger.debug("checkpoint blocked by a reader or writer")
    finally:
        wait_for_locks(connection, busy_ms)


def wait_for_locks(connection: apsw.Connection, milliseconds: int) -> None:
    """Let a connection wait so long for others, and hear signals meanwhile.

    SQLite's own wait hears none: a process that is asked to end would have to be killed, with
    what it has in hand.
    """
    end = 0.0

    def wait(waits: int) -> bool:
        nonlocal end
        now = time.monotonic()
        if not waits:
            end = now + milliseconds / 1000
        time.sleep(min(0.001 * 2 ** min(waits, 10), _MAX_LOCK_PAUSE, max(0.0, end - now)))
        return now < end

    connection.set_busy_handler(wait)
