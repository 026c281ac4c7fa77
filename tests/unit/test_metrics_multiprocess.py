"""Counts of many processes on one page, also after the processes have ended."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metrics.labels import MAX_ORIGINS
from metrics.multiprocess import SharedMetrics, forget_process, share_values
from weavloader.errors import ConfigError

ROOT = Path(__file__).parents[2]
COUNT = "metrics.count_error('unit', 'test'); metrics.observe_stage('store', 0.02);"
HEALTHY = "metrics.set_stream_health(True); metrics.set_memory('processor', 100);"


@contextmanager
def counting(directory: Path, code: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that ran ``code`` and lives until the block ends."""
    script = f"{before}\nfrom metrics import metrics\n{code}\nprint('counted', flush=True)\ninput()"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "counted\n"
            yield process
        finally:
            process.kill()


def samples(directory: Path) -> dict[str, float]:
    families = SharedMetrics(str(directory)).collect()
    return {
        sample.name.removeprefix("weavloader_"): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_living_processes_are_added_up(tmp_path: Path) -> None:
    with counting(tmp_path, COUNT + HEALTHY), counting(tmp_path, COUNT + HEALTHY):
        seen = samples(tmp_path)
    assert seen["errors_total"] == 2
    assert seen["image_stage_seconds_count"] == 2
    assert seen["memory_usage_bytes"] == 200
    assert seen["sage_stream_health"] == 1


def test_counts_outlive_a_killed_process_and_its_gauges_do_not(tmp_path: Path) -> None:
    for _ in range(3):
        with counting(tmp_path, COUNT + HEALTHY):
            pass
        seen = samples(tmp_path)
    assert seen["errors_total"] == 3
    assert seen["image_stage_seconds_sum"] == pytest.approx(0.06)
    assert "memory_usage_bytes" not in seen
    assert "sage_stream_health" not in seen


def test_files_do_not_pile_up_as_processes_come_and_go(tmp_path: Path) -> None:
    for _ in range(3):
        with counting(tmp_path, COUNT + HEALTHY):
            pass
        samples(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "counter_ended.db",
        "histogram_ended.db",
        "lock",
    ]


@pytest.mark.parametrize("pid", [os.getpid(), 4_000_000], ids=["living", "killed"])
def test_a_file_that_a_process_only_opened_leaves_the_page_as_it_is(
    tmp_path: Path, pid: int
) -> None:
    with counting(tmp_path, COUNT):
        for kind in ("counter", "histogram", "gauge_livesum"):
            (tmp_path / f"{kind}_{pid}.db").touch()
        assert samples(tmp_path)["errors_total"] == 1


@pytest.mark.parametrize("pid", [os.getpid(), 4_000_000], ids=["living", "killed"])
def test_a_file_that_cannot_be_read_is_left_out(
    tmp_path: Path, pid: int, caplog: pytest.LogCaptureFixture
) -> None:
    with counting(tmp_path, COUNT):
        (tmp_path / f"counter_{pid}.db").write_bytes(struct.pack("iiiiii", 64, 0, 5000, 1, 2, 3))
        assert samples(tmp_path)["errors_total"] == 1
    assert f"counter_{pid}.db" in caplog.text


def test_values_are_shared_though_flower_was_imported_first(tmp_path: Path) -> None:
    before = "import os; given = os.environ.pop('PROMETHEUS_MULTIPROC_DIR')\n"
    before += "import prometheus_client; os.environ['PROMETHEUS_MULTIPROC_DIR'] = given"
    with counting(tmp_path, COUNT, before):
        assert samples(tmp_path)["errors_total"] == 1


def test_the_counts_of_a_forked_child_are_its_own(tmp_path: Path) -> None:
    code = f"{COUNT}\nimport os\npid = os.fork()\n"
    code += f"if pid == 0:\n    {COUNT}\n    os._exit(0)\nos.waitpid(pid, 0)"
    with counting(tmp_path, code):
        assert samples(tmp_path)["errors_total"] == 2


def test_new_processes_do_not_bring_the_page_new_nodes_without_limit(tmp_path: Path) -> None:
    for first in (0, MAX_ORIGINS):
        nodes = f"range({first}, {first} + {MAX_ORIGINS})"
        code = f"for n in {nodes}: metrics.count_received(f'W{{n}}', 'j', 't', 'c')"
        with counting(tmp_path, code):
            pass
        families = SharedMetrics(str(tmp_path)).collect()
    # Counters without labels are there from the start.
    values = {
        sample.labels["node_id"]: sample.value
        for family in families
        for sample in family.samples
        if "node_id" in sample.labels
    }
    assert len(values) == MAX_ORIGINS + 1
    assert values["other"] == MAX_ORIGINS
    assert sum(values.values()) == 2 * MAX_ORIGINS


def test_other_libraries_metrics_in_the_files_are_left_out(tmp_path: Path) -> None:
    code = "import prometheus_client; prometheus_client.Counter('flower_events', 'x').inc()"
    with counting(tmp_path, code + "\n" + COUNT):
        assert "flower_events_total" not in samples(tmp_path)


def test_the_directory_is_private(tmp_path: Path) -> None:
    with counting(tmp_path / "new", COUNT):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with counting(tmp_path / "open", COUNT):
        assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700


def test_a_link_is_no_directory_for_metrics(tmp_path: Path) -> None:
    """Another user may have put it there, to choose what is written where."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="is another user's, or a link"):
        share_values(str(tmp_path / "link"))
    assert list((tmp_path / "theirs").iterdir()) == []


def test_another_users_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="is another user's, or a link"):
        share_values(str(tmp_path))


def test_a_directory_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="PROMETHEUS_MULTIPROC_DIR"):
        share_values(str(tmp_path / "file" / "below"))


def test_work_goes_on_where_metrics_cannot_be_shared(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with counting(tmp_path / "file" / "below", COUNT) as process:
        assert process.poll() is None


def test_forgetting_a_process_removes_its_gauges_only(tmp_path: Path) -> None:
    for name in ("gauge_livesum_7.db", "counter_7.db"):
        (tmp_path / name).write_bytes(b"")
    forget_process(str(tmp_path), 7)
    forget_process(str(tmp_path), 7)
    assert [path.name for path in tmp_path.iterdir()] == ["counter_7.db"]
