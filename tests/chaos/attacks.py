"""What whoever reaches a port, or whatever a peer answers, does to a system: it goes on, and its
health tells."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from demo.sage_replay.faults import DATA, STORAGE, Fault
from demo.servers.ports import HOST
from metrics.health import MAX_STARTS
from tests.chaos.processes import memory_of
from tests.chaos.role import FEW_FILES
from tests.chaos.system import PROCESSORS, System
from tests.chaos.waits import pause, wait_for_answers, wait_until_done
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters

# A processor takes some 250 MB without an image, and MAX_DECODE_BYTES lets one take 320 more.
MAX_MEMORY = 650 * 2**20
HALF_OPEN = 1_100
# A health check of Kubernetes gives up after so long.
HEALTH_SECONDS = 5.0
MAX_LOG_BYTES = 100_000
_SAMPLE_SECONDS = 0.2


def exhaust_memory(system: System) -> None:
    """Watch the memory of all processes of processors while they meet small, large images."""
    with closing(system.redis()) as redis:
        letters = DeadLetters(redis, ttl=1)
        enough = letters.count() + 4
        wait_for_answers(system, 1)
        peak = _peak(system, PROCESSORS, lambda: letters.count() >= enough, 60)
    assert peak < MAX_MEMORY, "memory of a processor"


def answer_without_end(system: System) -> None:
    """Let SAGE answer with what is small on its way and large in memory, or has no end."""
    wait_for_answers(system, 1)
    peak = max(_flooded(system, STORAGE, 6), _flooded(system, DATA, 2))
    assert peak < MAX_MEMORY, "memory of a role"


def half_open_connections(system: System) -> None:
    """Open more connections than a role may open files, and say nothing more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    system.restart(["metrics"], FEW_FILES)
    system.wait_until(lambda: system.live_seconds() < HEALTH_SECONDS, "the metrics server")
    before = len(system.log_of(["metrics"]))
    with ExitStack() as stack:
        for _ in range(HALF_OPEN):
            try:
                client = stack.enter_context(
                    socket.create_connection((HOST, system.metrics_port), HEALTH_SECONDS)
                )
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
            except OSError:
                continue
        waits = []
        for _ in range(5):
            waits.append(system.live_seconds())
            pause(1)
        assert max(waits) < HEALTH_SECONDS, "health did not answer"
        failures = system.failures().keys() - {"workers"}  # which others have ended before
        assert not failures, f"health took it for an outage: {failures}"
    assert len(system.log_of(["metrics"])) - before < MAX_LOG_BYTES, "its log grew"


def fatal_message(system: System) -> None:
    """Wait until a message that ends its worker has become a dead letter, and health tells."""
    with closing(system.redis()) as redis:
        letters = DeadLetters(redis, ttl=1)
        enough = letters.count() + 1
        system.wait_until(lambda: letters.count() >= enough, "the dead letter of the message", 120)
        wait_until_done(system, 60)
        _restart_until_health_tells(system, redis)


def _restart_until_health_tells(system: System, redis: Any) -> None:
    """The message ended two workers, either of which too seldom, perhaps, for health to tell."""
    for _ in range(MAX_STARTS + 1):
        if "started" in system.failures().get("workers", ""):
            return
        more = redis.zcard(redis_keys.WORKER_STARTS) + 1
        system.restart(PROCESSORS[:1])
        system.wait_until(partial(_has_seen_starts, redis, more), "a worker's start")
    raise AssertionError("health is silent about restarts")


def _has_seen_starts(redis: Any, amount: int) -> bool:
    return bool(redis.zcard(redis_keys.WORKER_STARTS) >= amount)


def _flooded(system: System, target: str, count: int) -> int:
    """The most memory that a process takes while so many answers of each kind come."""
    faults = [Fault(kind, count, target) for kind in ("deflate_bomb", "endless_error")]
    for fault in faults:
        system.replay.add_fault(fault)
    roles = (*PROCESSORS, "moderator")
    asked_for = _peak(system, roles, lambda: not any(fault.count for fault in faults), 40)
    return max(asked_for, _peak(system, roles, lambda: False, 5))  # while the last are read


def _peak(system: System, roles: Sequence[str], done: Callable[[], bool], seconds: float) -> int:
    """The most memory, in bytes, that one process of some roles takes until ``done()``."""
    deadline, peak = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and not done():
        system.tend()
        peak = max(peak, *map(memory_of, system.processes_of(roles)))
        time.sleep(_SAMPLE_SECONDS)
    return peak
