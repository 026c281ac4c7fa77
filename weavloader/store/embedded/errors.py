"""Map errors of SQLite and of the file system to Weavloader's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError

# Everything about the machine is transient: a lock, a full disk, a volume that is not mounted.
# So is a damaged file, because it is not the fault of the image being stored.
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
    apsw.InternalError: Reason.STORE_FAILED,
    apsw.ExtensionLoadingError: Reason.STORE_FAILED,
    apsw.NoFTS5Error: Reason.STORE_FAILED,
}


@contextmanager
def store_errors() -> Iterator[None]:
    """Map the errors raised inside.

    Raises:
        TransientError: The machine is at fault: locked, full, unreadable.
        PermanentError: SQLite rejects the values or the statement.
    """
    try:
        yield
    except apsw.Error as error:
        raise map_error(error) from error
    except OSError as error:
        message = f"embedded store files: {error.strerror or type(error).__name__}"
        raise TransientError(message, reason=Reason.STORE_IO) from error


def map_error(error: apsw.Error) -> WeavloaderError:
    """Weavloader's error for one of SQLite's."""
    message = f"embedded store: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return TransientError(message, reason=reason)
    return PermanentError(message, reason=Reason.STORE_REFUSED)
