"""The version that an upgrade begins with, out of this repository's own history."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What workers of two versions tell each other: messages, names in Redis, who holds what.
_SHARED = ("job_system", "weavloader/images/job.py", "weavloader/redis_keys.py", "tasks.py")


def older_version() -> str:
    """The release before this commit; without one, the commit before the last change to
    what workers share. Empty where the history does not reach so far."""
    if release := _git("describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^"):
        return release
    changed = _git("log", "-1", "--format=%H", "--", *_SHARED)
    return _git("rev-parse", "--verify", "--quiet", f"{changed}^") if changed else ""


def unpack(version: str, folder: Path) -> None:
    """Write the files of a version into ``folder``."""
    command = ["git", "archive", "--format=tar", version]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() if done.returncode == 0 else ""
