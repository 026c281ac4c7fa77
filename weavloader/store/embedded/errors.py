"""The one place where errors of SQLite and of the file system become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError

# Everything about the machine may pass: a lock, a full disk, a volume that is not mounted yet.
# A damaged file counts with them, since the image that met it is not at fault.
_REASONS: dict[type[apsw.Error], Reason] = {
    apsw.BusyError: Reason.STORE_LOCKED,
    apsw.LockedError: Reason.STORE_LOCKED,
    apsw.ProtocolError: Reason.STORE_LOCKED,
    apsw.SchemaChangeError: Reason.STORE_LOCKED,
    apsw.AbortError: Reason.STORE_LOCKED,
    apsw.InterruptError: Reason.STORE_LOCKED,
    apsw.FullError: Reason.STORE_FULL,
    apsw.IOError: Reason.STORE_IO,
    apsw.CantOpenError: Reason.STORE_IO,
    apsw.ReadOnlyError: Reason.STORE_IO,
    apsw.PermissionsError: Reason.STORE_IO,
    apsw.AuthError: Reason.STORE_IO,
    apsw.NoLFSError: Reason.STORE_IO,
    apsw.NoMemError: Reason.STORE_MEMORY,
    apsw.CorruptError: Reason.STORE_DAMAGED,
    apsw.NotADBError: Reason.STORE_DAMAGED,
    apsw.EmptyError: Reason.STORE_DAMAGED,
    apsw.FormatError: Reason.STORE_DAMAGED,
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
        raise TransientError(message, reason=Reason.STORE_IO) from error


def translated(error: apsw.Error) -> WeavloaderError:
    """Our error for one of SQLite's."""
    message = f"the embedded store: {type(error).__name__}: {str(error)[:200]}"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return TransientError(message, reason=reason)
    return PermanentError(message, reason=Reason.STORE_REFUSED)
