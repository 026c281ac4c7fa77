"""The demo supervises what production does, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from configparser import RawConfigParser
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from commands.roles import ROLES
from demo.servers.ports import free_ports
from demo.servers.processes import descendants
from demo.stack import PRODUCTION, Plan, demo_config
from weavloader.settings import Settings, load_settings

# Starts a shell that starts a process of another session, and hands that one on to us.
_LEAVES_AN_ORPHAN = """
import subprocess, sys, time
from demo.servers.processes import adopt_orphans, descendants, kill_descendants
adopt_orphans()
subprocess.run(["sh", "-c", "setsid sleep 60 & setsid sleep 60 &"], check=True)
child = subprocess.Popen(["sh", "-c", "sleep 60; true"])
assert len(descendants()) >= 3, descendants()
kill_descendants()
assert descendants() == [], descendants()
"""
_STARTS_A_CHILD = """
import subprocess, time
from demo.servers.processes import end_with_parent
child = subprocess.Popen(["sleep", "60"], preexec_fn=end_with_parent)
print(child.pid, flush=True)
time.sleep(60)
"""


def read(text: str) -> RawConfigParser:
    """A configuration as supervisord reads it."""
    config = RawConfigParser()
    config.read_string(text)
    return config


def programs(config: RawConfigParser) -> dict[str, str]:
    """The command line of each program."""
    sections = (name for name in config.sections() if name.startswith("program:"))
    return {name.removeprefix("program:"): config[name]["command"] for name in sections}


def test_production_runs_redis_and_every_role() -> None:
    production = read(PRODUCTION.read_text())
    roles = {role: f"python main.py {role}" for role in ROLES}
    found = programs(production)
    assert found.pop("redis").startswith("redis-server --bind 127.0.0.1 ")
    assert found == roles
    assert set(production["group:weavloader"]["programs"].split(",")) == set(ROLES)


def test_supervisord_accepts_both_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_INSIDE", "true")  # as the image sets it
    (tmp_path / "log").mkdir()
    demo = tmp_path / "supervisord.conf"
    demo.write_text(demo_config(tmp_path, {"redis": ["valkey"], "triton": ["a b", "100%"]}))
    names = []
    for file in (PRODUCTION, demo):
        options = ServerOptions()
        options.realize(["-c", str(file)])
        groups = {group.name: group for group in options.process_group_configs}
        names.append({process.name for process in groups["weavloader"].process_configs})
        assert groups["redis"].priority < groups["weavloader"].priority
    assert names == [set(ROLES), set(ROLES)]
    (triton,) = groups["triton"].process_configs
    assert triton.command == "'a b' 100%"


def test_production_waits_for_the_longest_task_and_kills_whole_groups() -> None:
    production = read(PRODUCTION.read_text())
    for worker in ("processor", "moderator", "cleaner"):
        section = production[f"program:{worker}"]
        assert int(section["stopwaitsecs"]) > 600
        assert "stopasgroup" not in section
    for role in ROLES:
        assert production[f"program:{role}"]["killasgroup"] == "true"


def test_a_demo_runs_the_same_roles_and_its_own_servers(tmp_path: Path) -> None:
    commands = {"redis": ["valkey", "--dir", "/a b"], "triton": ["triton", "100%"]}
    config = read(demo_config(tmp_path, commands))
    found = programs(config)
    assert set(found) == {*ROLES, "redis", "triton"}
    assert found["redis"] == "valkey --dir '/a b'" and found["triton"] == "triton 100%%"
    assert found["processor"] == f"{sys.executable} main.py processor"


def test_a_demo_writes_nowhere_but_in_its_folder(tmp_path: Path) -> None:
    config = read(demo_config(tmp_path, {"redis": ["valkey"]}))
    for section in config.sections():
        for name in ("stdout_logfile", "pidfile", "file"):
            value = config[section].get(name)
            assert value is None or value.startswith(str(tmp_path)), (section, name)


def test_a_demo_speaks_of_settings_that_exist_and_listens_on_loopback(tmp_path: Path) -> None:
    plan = Plan.draw_up(tmp_path, images=3, publish_seconds=1.0, images_dir=None)
    environment = {name.lower(): value for name, value in plan.environment(own_store=True).items()}
    assert set(environment) <= set(Settings.model_fields)
    settings = load_settings(**environment)
    assert settings.vector_store == "embedded"
    for address in (settings.metrics_address, settings.web_address, settings.flower_address):
        assert address == "127.0.0.1"
    assert load_settings(**{**environment, **_only_store(plan)}).vector_store == "weaviate"


def _only_store(plan: Plan) -> dict[str, str]:
    return {"vector_store": plan.environment(own_store=False)["VECTOR_STORE"]}


def test_ports_are_all_different() -> None:
    assert len(set(free_ports(50))) == 50


def test_no_descendant_survives_whatever_its_session(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LEAVES_AN_ORPHAN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_child_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STARTS_A_CHILD], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _runs(child):
        if time.monotonic() > deadline:
            pytest.fail("the child goes on")
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")


def test_descendants_are_found_without_proc_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        pids = {child.pid, int(child.stdout.readline())}
        for platform in (sys.platform, "darwin"):
            monkeypatch.setattr(sys, "platform", platform)
            assert pids <= set(descendants())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
