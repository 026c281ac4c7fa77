"""The commands of ``python main.py``: a module for each subject.

A module imports what its command needs only when it runs: no tool should pay for another's
libraries.
"""

from __future__ import annotations

from collections.abc import Sequence

ROLES = ("stream", "processor", "moderator", "cleaner", "scheduler", "metrics", "flower", "web")


def normalize_args(args: list[str], default: Sequence[str] = ("stream",)) -> list[str]:
    """Rewrite the other spellings into commands: ``--worker_type X`` is X, none is ``default``."""
    if args[:1] == ["--worker_type"] and len(args) > 1:
        return args[1:]
    if args[:1] and args[0].startswith("--worker_type="):
        return [args[0].partition("=")[2], *args[1:]]
    if not args or args[0].startswith("--log-level"):
        return [*default, *args]
    return args


def names_role(args: list[str]) -> bool:
    """Whether a command line starts a role, rather than a tool."""
    return normalize_args(args)[0] in ROLES
