"""The one place where errors of SQLite and of the file system become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from weavloader.errors import PermanentError, TransientError, WeavloaderError

# Everything about the machine may pass: a lock, a full disk, a volume that is not mounted yet.
# A damaged file counts with them, since the image that met it is not at fault.
_REASONS: dict[type[apsw.Error], str] = {
    apsw.BusyError: "store_locked",
    apsw.LockedError: "store_locked",
    apsw.ProtocolError: "store_locked",
    apsw.SchemaChangeError: "store_locked",
    apsw.AbortError: "store_locked",
    apsw.InterruptError: "store_locked",
    apsw.FullError: "store_full",
    apsw.IOError: "store_io",
    apsw.CantOpenError: "store_io",
    apsw.ReadOnlyError: "store_io",
    apsw.PermissionsError: "store_io",
    apsw.AuthError: "store_io",
    apsw.NoLFSError: "store_io",
    apsw.NoMemError: "store_memory",
    apsw.CorruptError: "store_damaged",
    apsw.NotADBError: "store_damaged",
    apsw.EmptyError: "store_damaged",
    apsw.FormatError: "store_damaged",
}


@contextmanager
def store_errors() -> Iterator[None]:
    """Translate what is raised inside.

    Raises:
        TransientError: The machine is at fault: locked, full, unreadable.
        PermanentError: SQLite refuses the values or the statement.
    """
    try:
        yield
    except apsw.Error as error:
        raise translated(error) from error
    except OSError as error:
        message = f"the store's files: {error.strerror or type(error).__name__}"
        raise TransientError(message, reason="store_io") from error


def translated(error: apsw.Error) -> WeavloaderError:
    """Our error for one of SQLite's."""
    message = f"the embedded store: {type(error).__name__}: {str(error)[:200]}"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return TransientError(message, reason=reason)
    return PermanentError(message, reason="store_refused")
