"""A worker is stalled when work waits, it is free, and nothing is received for long."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisGone

from job_system.worker_process import STALL_SECONDS, Watchdog


class Worker:
    """A worker as the watchdog sees it."""

    backlog = 5
    received = 0
    free = True
    now = 0.0
    redis_is_away = False

    def length(self) -> int:
        if self.redis_is_away:
            raise RedisGone
        return self.backlog

    def watchdog(self) -> Watchdog:
        return Watchdog(self.length, lambda: self.received, lambda: self.free, lambda: self.now)

    def stalls(self, watchdog: Watchdog, **changes: object) -> bool:
        for name, value in changes.items():
            setattr(self, name, value)
        watchdog.is_stalled()
        self.now += STALL_SECONDS + 1
        return watchdog.is_stalled()


def test_a_worker_that_takes_nothing_while_work_waits_is_stalled() -> None:
    worker = Worker()
    assert worker.stalls(worker.watchdog())


def test_a_worker_without_work_is_not() -> None:
    worker = Worker()
    assert not worker.stalls(worker.watchdog(), backlog=0)


def test_a_busy_worker_is_not() -> None:
    worker = Worker()
    assert not worker.stalls(worker.watchdog(), free=False)


def test_no_worker_is_while_redis_is_away() -> None:
    worker = Worker()
    assert not worker.stalls(worker.watchdog(), redis_is_away=True)


def test_a_worker_that_took_something_meanwhile_is_not() -> None:
    worker = Worker()
    watchdog = worker.watchdog()
    for received in range(5):
        worker.received = received
        worker.now += STALL_SECONDS / 2
        assert not watchdog.is_stalled()
