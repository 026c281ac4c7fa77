"""One set of metrics for many processes, by files that each keeps and one server adds up."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import Metric, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from metrics.labels import ORIGIN, BoundedLabels
from metrics.metrics import PREFIX
from metrics.value_files import ForgivingDict, ReservedDict
from weavloader.errors import ConfigError, Reason
from weavloader.settings import publish_to_environment

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SUMMED_TYPES = ("counter", "histogram")
_ENDED = "ended"
_PRIVATE = 0o700
# What prometheus_client raises for a file that is not as it writes them.
_UNREADABLE = (RuntimeError, ValueError, struct.error)

logger = logging.getLogger(__name__)


def share_values(directory: str) -> None:
    """Keep the values of all metrics made from now on in files of ``directory``.

    ``celery worker`` imports Flower, and with it prometheus_client, before this project, so
    the library's choice at import is made again here.

    Raises:
        ConfigError: The directory cannot be made or written; values then stay in the process.
    """
    try:
        _make_private(Path(directory))
    except ConfigError:
        vars(values)["ValueClass"] = values.MutexValue
        raise
    publish_to_environment(DIRECTORY_VARIABLE, directory)
    vars(values)["MmapedDict"] = ForgivingDict
    if not values.ValueClass._multiprocess:
        vars(values)["ValueClass"] = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def forget_process(directory: str, pid: int) -> None:
    """Remove the live gauges of a process that has ended."""
    try:
        mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return  # a scrape removed them at the same moment


class SharedMetrics(Collector):
    """The sum over all processes that share a directory, living and ended.

    Counts of ended processes are added into one file before each collection, so neither the
    directory nor the time of a scrape grows as workers come and go. Liveness is judged by
    process id: all who share a directory must share a process namespace.

    Args:
        directory: As given to :func:`share_values`.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def collect(self) -> Iterable[Metric]:
        """Families of this project; other libraries' metrics may share the files."""
        with _locked(self._directory):
            for pid in _ended_processes(self._directory):
                _fold(self._directory, pid)
            files = [str(path) for path in self._directory.glob("*.db") if _is_begun(path)]
            families = _merged(files)
        return [family for family in families if family.name.startswith(PREFIX)]


def _make_private(path: Path) -> None:
    """Make the folder, or take it if it is this user's alone.

    In a folder for temporary files another user may have made it, and would choose what is written
    where.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            problem = f"{path} is another user's, or a link"
        else:
            if stat.S_IMODE(found.st_mode) != _PRIVATE:
                path.chmod(_PRIVATE)
            problem = "" if os.access(path, os.W_OK | os.X_OK) else f"cannot write {path}"
    except OSError:
        problem = f"cannot write {path}"
    if problem:
        raise ConfigError(f"{DIRECTORY_VARIABLE}: {problem}", reason=Reason.BAD_SETTING)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ended_processes(directory: Path) -> set[int]:
    names = (path.stem.rpartition("_")[2] for path in directory.glob("*_*.db"))
    pids = {int(name) for name in names if name.isdigit()}
    return {pid for pid in pids if not _alive(pid)}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _merged(files: Sequence[str]) -> list[Metric]:
    """Families of all files; those of a file that cannot be read are left out."""
    try:
        return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
    except _UNREADABLE:
        whole = [file for file in files if _is_whole(file)]
        return list(MultiProcessCollector.merge(whole))  # type: ignore[no-untyped-call]


def _is_whole(file: str) -> bool:
    try:
        MultiProcessCollector.merge([file])  # type: ignore[no-untyped-call]
    except _UNREADABLE as error:
        logger.warning("unreadable metrics file %s skipped: %s", Path(file).name, error)
        return False
    return True


def _is_begun(path: Path) -> bool:
    """Whether there is anything in a file: a process opens it before it gives it its length, and
    may be killed in between."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _fold(directory: Path, pid: int) -> None:
    forget_process(str(directory), pid)
    for kind in _SUMMED_TYPES:
        source = directory / f"{kind}_{pid}.db"
        if _is_begun(source) and _is_whole(str(source)):
            try:
                _add(source, directory / f"{kind}_{_ENDED}.db")
            except OSError as error:
                logger.warning("metrics of ended process %d not added up yet: %s", pid, error)
                return
            source.unlink()
    for leftover in directory.glob(f"*_{pid}.db"):
        leftover.unlink()


def _add(source: Path, target: Path) -> None:
    total = ReservedDict(str(target))
    try:
        # All or nothing: what was added in part would be added once more.
        total.make_room(source.stat().st_size)
        origins = _Origins(key for key, _, _ in total.read_all_values())  # type: ignore[no-untyped-call]
        entries = MmapedDict.read_all_values_from_file(str(source))  # type: ignore[no-untyped-call]
        for key, value, _, _ in entries:
            bounded = origins.within_bound(key)
            before, _ = total.read_value(bounded)  # type: ignore[no-untyped-call]
            total.write_value(bounded, before + value, 0.0)  # type: ignore[no-untyped-call]
    finally:
        total.close()  # type: ignore[no-untyped-call]


class _Origins:
    """Holds ended processes together to the bound that each was held to alone.

    Without it a page would gain the new nodes that every new process admits.

    Args:
        keys: What the file holds already, as the library writes it.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._bounds: defaultdict[str, BoundedLabels] = defaultdict(BoundedLabels)
        for key in keys:
            self.within_bound(key)

    def within_bound(self, key: str) -> str:
        """The key of a value, with ``other`` for an origin beyond the bound."""
        family, sample, labels, text = json.loads(key)
        if labels.keys() != set(ORIGIN):
            return key
        values = self._bounds[sample].within_bound(*(labels[name] for name in ORIGIN))
        return json.dumps(
            (family, sample, dict(zip(ORIGIN, values, strict=True)), text), sort_keys=True
        )
