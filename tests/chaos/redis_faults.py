"""What is done to Redis, and to the ways to it."""

from __future__ import annotations

import signal
from contextlib import closing, suppress
from threading import Thread
from typing import Any

from redis.exceptions import ResponseError

from tests.chaos.processes import no_file_grows
from tests.chaos.system import FaultAction, System
from tests.chaos.waits import pause, wait_for_work, wait_until_done

# What Celery says of an error that ends its worker.
WORKER_ENDED = "Unrecoverable error"


def end_redis(number: int, seconds: float) -> FaultAction:
    """End Redis by a signal, and start it so many seconds later."""

    def bring_about(system: System) -> None:
        wait_for_work(system)
        system.stop_redis(number)
        pause(seconds)
        system.start_redis()

    return bring_about


def freeze_redis(system: System) -> None:
    """Let Redis be there and say nothing."""
    wait_for_work(system)
    system.signal_redis(signal.SIGSTOP)
    pause(20)
    system.signal_redis(signal.SIGCONT)


def fill_redis(system: System) -> None:
    """Let Redis refuse every write, as one that may use no more memory."""
    wait_for_work(system)
    with closing(system.redis()) as redis:
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        pause(10)
        redis.config_set("maxmemory", 0)


def fill_redis_disk(system: System) -> None:
    """Let Redis's append-only file not grow, after which it refuses every write."""
    wait_for_work(system)
    before = system.log_of().count(WORKER_ENDED)
    with closing(system.redis()) as redis:
        with no_file_grows(system.redis_pid):
            system.wait_until(lambda: _is_refused(redis), "a write that is refused")
            pause(10)
        system.wait_until(lambda: not _is_refused(redis), "a write that is taken")
    assert system.log_of().count(WORKER_ENDED) == before, "a worker ended"


def keep_redis_busy(system: System) -> None:
    """Let a script of another program run for 10 s, for which Redis refuses every command."""
    wait_for_work(system)
    with closing(system.redis()) as redis, closing(system.redis()) as other:
        redis.config_set("busy-reply-threshold", 200)
        endless = Thread(target=_run_without_end, args=(other,))
        endless.start()
        pause(10)
        redis.script_kill()
        endless.join()


def fail_over_redis(system: System) -> None:
    """Let another Redis take over, where its name leads from then on; connections stay open."""
    with system.behind_firewall() as between:
        wait_for_work(system)
        with system.failed_over(between):
            wait_until_done(system, 90)


def drop_redis_connections(system: System) -> None:
    """Let a firewall forget every connection to Redis, which both ends take for open."""
    with system.behind_firewall() as between:
        wait_for_work(system)
        between.forget()
        # Each of a role's connections is found out by a command that times out, after 30 s.
        wait_until_done(system, 150)


def _is_refused(redis: Any) -> bool:
    try:
        redis.set("chaos", "written")
    except ResponseError:
        return True
    return False


def _run_without_end(redis: Any) -> None:
    with suppress(ResponseError):  # it is killed
        redis.eval("while true do end", 0)
