"""Every error of the project, in one tree.

::

    WeavloaderError
    ├── ConfigError       the operator must change something: exit code 2
    ├── TransientError    the same work may succeed later: retry
    └── PermanentError    the same work will fail again: dead letter at once

Whether an image is retried or dead-lettered follows from the class alone. ``reason`` is a
short constant word, fit for a metric label and for filtering dead letters.
"""


class WeavloaderError(Exception):
    """Root of the project's errors.

    Args:
        message: One line for a person.
        reason: A short constant word naming the kind of failure.
    """

    def __init__(self, message: str, *, reason: str = "error") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Keep ``reason`` when Celery carries the error between processes."""
        return (_rebuild, (type(self), str(self), self.reason))


class ConfigError(WeavloaderError):
    """A setting, argument or file given by the operator is wrong."""


class TransientError(WeavloaderError):
    """A dependency failed in a way that may pass."""


class PermanentError(WeavloaderError):
    """The input itself is at fault; trying again gives the same answer."""


def _rebuild(kind: type[WeavloaderError], message: str, reason: str) -> WeavloaderError:
    return kind(message, reason=reason)
