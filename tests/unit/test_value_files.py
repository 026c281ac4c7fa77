"""A file system that is full costs metrics, and no process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metrics import value_files
from metrics.value_files import ForgivingDict, ReservedDict

ROOT = Path(__file__).parents[2]
# Many label sets, so that the files grow.
COUNT = """
import sys
from prometheus_client.mmap_dict import MmapedDict
from metrics import metrics, multiprocess
if sys.argv[2:]:
    vars(multiprocess)["ForgivingDict"] = MmapedDict
multiprocess.share_values(sys.argv[1])
for number in range(2000):
    metrics.count_error("unit", f"test {number}")
    metrics.observe_stage("store", 0.02)
print("lives")
"""


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No space is left on any file system."""

    def no_space(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(value_files, "reserve", no_space)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def put(values: ForgivingDict, key: str, value: float) -> None:
    values.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]


def value(values: ForgivingDict, key: str) -> float:
    found, _ = values.read_value(key)  # type: ignore[no-untyped-call]
    return float(found)


def counting(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COUNT, str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_process_lives_on_where_the_file_system_is_full(small: Path) -> None:
    done = counting(small)
    assert (done.returncode, done.stdout) == (0, "lives\n")
    assert "not shared" in done.stderr


def test_without_reserved_space_it_is_killed(small: Path) -> None:
    assert counting(small, "as the library does").returncode == -signal.SIGBUS


def test_values_stay_in_the_process_where_no_file_can_be_made(full: None, tmp_path: Path) -> None:
    values = ForgivingDict(str(tmp_path / "counter_1.db"))
    for number in range(5000):
        put(values, f"key {number}", float(number))
    assert value(values, "key 4999") == 4999.0
    values.close()
    assert [file.stat().st_size for file in tmp_path.iterdir()] == [0]


def test_what_was_counted_is_kept_when_a_file_cannot_grow(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    values = ForgivingDict(str(tmp_path / "counter_1.db"))
    put(values, "before", 5.0)
    request.getfixturevalue("full")
    for number in range(5000):
        put(values, f"key {number}", float(number))
    assert value(values, "before") == 5.0
    assert value(values, "key 4999") == 4999.0
    values.close()


def test_a_file_that_is_reserved_reads_as_the_librarys(tmp_path: Path) -> None:
    values = ForgivingDict(str(tmp_path / "counter_1.db"))
    for number in range(5000):
        put(values, f"key {number}", float(number))
    values.close()
    read = list(ReservedDict.read_all_values_from_file(str(tmp_path / "counter_1.db")))  # type: ignore[no-untyped-call]
    assert [(key, value) for key, value, *_ in read][-1] == ("key 4999", 4999.0)


def test_the_space_is_reserved_without_posix_fallocate_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    test_a_file_that_is_reserved_reads_as_the_librarys(tmp_path)
    assert (tmp_path / "counter_1.db").stat().st_blocks * 512 >= 1 << 16
