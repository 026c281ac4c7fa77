"""Ports that are given to servers which are not there yet."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from demo.servers import ports
from weavloader.errors import TransientError

PROGRAM = """
from demo.servers.ports import free_ports
for _ in range(25):
    print(*free_ports(40))
"""


def test_no_process_is_given_what_another_was_given(tmp_path: Path) -> None:
    line = [sys.executable, "-c", PROGRAM]
    begun = [
        subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)})
        for _ in range(4)
    ]
    given = [port for each in begun for port in each.communicate(timeout=120)[0].split()]
    assert len(given) == 4000
    assert len(set(given)) == 4000


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which given ports are noted."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_port_is_given_again_after_some_minutes(
    register: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_RANGE", ports._RANGE[:3])
    assert len(ports.free_ports(2)) == 2
    with pytest.raises(TransientError, match="2 free ports were not found"):
        ports.free_ports(2)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + ports._KEPT_SECONDS)
    assert len(ports.free_ports(2)) == 2


def test_a_note_that_was_cut_off_is_forgotten(register: Path) -> None:
    ports.free_ports(1)
    (note,) = register.iterdir()
    note.write_text('{"20001": 12')
    assert len(ports.free_ports(1)) == 1
