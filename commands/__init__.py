"""The commands of ``python main.py``: a module for each subject.

A module imports what its command needs only when it runs: no tool should pay for another's
libraries.
"""

from __future__ import annotations

from collections.abc import Sequence

ROLES = ("stream", "processor", "moderator", "cleaner", "scheduler", "metrics", "flower", "web")


def normalize_args(args: list[str], default: Sequence[str] = ("stream",)) -> list[str]:
    """Rewrite the other spellings into commands.

    ``--worker_type X`` is X, and without a command it is ``default``; ``--log-level LEVEL`` may
    stand before either. ``--worker_type`` without a value stays as it is.
    """
    level, rest = _split_level(args)
    option, _, value = (rest[0] if rest else "").partition("=")
    if option.replace("_", "-") == "--worker-type":
        if not value and len(rest) == 1:
            return rest
        rest = [value, *rest[1:]] if value else rest[1:]
    elif not rest:
        rest = [*default]
    return [*level, *rest]


def _split_level(args: list[str]) -> tuple[list[str], list[str]]:
    """The option ``--log-level`` with its value at the head of ``args``, and the rest."""
    option, equals, _ = (args[0] if args else "").partition("=")
    if option.replace("_", "-") != "--log-level":
        return [], args
    length = 1 if equals else 2
    return args[:length], args[length:]


def names_role(args: list[str]) -> bool:
    """Whether a command line starts a role, rather than a tool."""
    _, rest = _split_level(normalize_args(args))
    return bool(rest) and rest[0] in ROLES
