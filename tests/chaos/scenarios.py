"""What is done to the system, one fault after another."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from demo.replay_faults import DATA, STORAGE, Fault
from tests.chaos import bad_images
from tests.chaos.account import Account
from tests.chaos.system import PROCESSORS, System, pause
from tests.chaos.world import Published, images
from weavloader import keys

Act = Callable[[System], None]
Images = Callable[[str, str, int], Sequence[Published]]


def _good(amount: int) -> Images:
    return lambda host, name, seed: images(host, name, amount, seed)


SIXTY = _good(60)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault.

    Attributes:
        act: Brings it about, and ends it; called when the images begin to appear.
        images: What is published: by host, name and seed.
        seconds: Over how long the images appear.
        is_quick: It is part of the short form.
        patience: Seconds after the fault until every image must be accounted for.
        most_calls: Answers of each model for an image that may be needed at most.
        litter: Dead letters that come of something else than the images.
    """

    name: str
    act: Act
    images: Images = SIXTY
    seconds: float = 4.0
    is_quick: bool = False
    patience: float = 120.0
    most_calls: float = 1.5
    litter: int = 0

    def is_passed(self, account: Account) -> bool:
        """Whether nothing was lost, doubled, led astray or done for nothing."""
        return (
            account.missing == account.doubled == 0
            and not account.astray
            and account.letters == self.litter
            and account.calls_per_image <= self.most_calls
        )


def _some_work(system: System) -> None:
    """Wait until images are being worked on."""
    with closing(system.redis()) as redis:

        def in_work() -> int:
            workers = [name.decode() for name in redis.hkeys(keys.WORKERS)]
            held = sum(redis.hlen(keys.unacked(worker)) for worker in workers)
            return int(held + redis.llen(keys.IMAGE_QUEUE))

        system.wait_until(in_work, "images in work")


def _kill(*roles: str, number: int = signal.SIGKILL) -> Act:
    def act(system: System) -> None:
        _some_work(system)
        for role in roles:
            system.kill(role, number)

    return act


def _kill_children(system: System) -> None:
    for _ in range(3):
        _some_work(system)
        for role in PROCESSORS:
            system.kill_a_child(role)
        pause(1)


def _kill_in_mid_tick(system: System) -> None:
    with closing(system.redis()) as redis:
        for _ in range(3):
            system.wait_until(lambda: redis.exists(keys.STREAM_LOCK), "a tick")
            system.kill("moderator")
            system.wait_until(lambda: True, "its return")
            redis.delete(keys.STREAM_LOCK)


def _kill_again_and_again(times: int, every: float) -> Act:
    def act(system: System) -> None:
        for _ in range(times):
            pause(every)
            for role in PROCESSORS:
                system.kill(role)
            system.tend()

    return act


def _redis(number: int, seconds: float) -> Act:
    def act(system: System) -> None:
        _some_work(system)
        system.stop_redis(number)
        pause(seconds)
        system.start_redis()

    return act


def _freeze_redis(system: System) -> None:
    _some_work(system)
    system.signal_redis(signal.SIGSTOP)
    pause(20)
    system.signal_redis(signal.SIGCONT)


def _fill_redis(system: System) -> None:
    _some_work(system)
    with closing(system.redis()) as redis:
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        pause(10)
        redis.config_set("maxmemory", 0)


def _triton(seconds: float) -> Act:
    def act(system: System) -> None:
        _some_work(system)
        system.models.server.stop()
        pause(seconds)
        system.models.server.start()

    return act


def _models(mode: str) -> Act:
    def act(system: System) -> None:
        system.models.behave(mode)
        pause(6)
        system.models.behave("ok")

    return act


def _store(seconds: float) -> Act:
    def act(system: System) -> None:
        _some_work(system)
        system.break_store()
        pause(seconds)
        system.mend_store()

    return act


def _lock_store(system: System) -> None:
    _some_work(system)
    with closing(sqlite3.connect(system.store_path / "store.sqlite3")) as database:
        database.execute("BEGIN IMMEDIATE")
        pause(8)
        database.rollback()


def _sage(kind: str, target: str, count: int, **details: int) -> Act:
    def act(system: System) -> None:
        system.replay.add_fault(Fault(kind, count=count, target=target, **details))
        pause(3)

    return act


def _jump_clock(system: System) -> None:
    _some_work(system)
    with closing(system.redis()) as redis:
        ahead = datetime.now(UTC) + timedelta(days=1)
        redis.set(keys.STREAM_CURSOR, ahead.isoformat())


def _look_over_the_day(system: System) -> None:
    from job_system import celery_app

    pause(5)  # until all are listed
    celery_app.send_task("job_system.tasks.health_check")


def _litter(system: System) -> None:
    with closing(system.redis()) as redis:
        for litter in bad_images.LITTER:
            redis.lpush(keys.IMAGE_QUEUE, litter)


def _nothing(system: System) -> None:
    """No fault at all: the suite's own measure."""


SCENARIOS = (
    Scenario("no fault", _nothing, is_quick=True),
    Scenario("kill -9 of children, three times", _kill_children, is_quick=True),
    Scenario("kill -9 of a processor", _kill("processor"), is_quick=True),
    Scenario("kill -9 of all processors at once", _kill(*PROCESSORS)),
    Scenario(
        "kill -9 of all processors, ten times in 40 s", _kill_again_and_again(10, 4), _good(400)
    ),
    Scenario("SIGTERM of all processors", _kill(*PROCESSORS, number=signal.SIGTERM)),
    Scenario("kill -9 of the moderator in mid-tick, three times", _kill_in_mid_tick, is_quick=True),
    Scenario("kill -9 of the scheduler", _kill("scheduler")),
    Scenario("Redis restarted", _redis(signal.SIGTERM, 0)),
    Scenario("Redis killed", _redis(signal.SIGKILL, 0), is_quick=True),
    Scenario("Redis gone for 20 s", _redis(signal.SIGKILL, 20)),
    Scenario("Redis frozen for 20 s", _freeze_redis),
    Scenario("Redis full for 10 s", _fill_redis),
    Scenario("Triton down for 60 s", _triton(60)),
    Scenario("Triton down for 5 s", _triton(5), is_quick=True),
    Scenario("models slow", _models("slow")),
    Scenario("models fail", _models("error")),
    Scenario("models tell of errors as answers", _models("confess"), is_quick=True),
    Scenario("models answer nothing", _models("blank")),
    Scenario("models answer NaN", _models("nan")),
    Scenario("store down for 60 s", _store(60), most_calls=1.0),
    Scenario("store down for 10 s", _store(10), is_quick=True, most_calls=1.0),
    Scenario("store locked for 8 s", _lock_store),
    Scenario("SAGE answers 500", _sage("status", DATA, 3, status=500)),
    Scenario("SAGE answers 401", _sage("status", DATA, 3, status=401)),
    Scenario("SAGE sends garbage", _sage("garbage_line", DATA, 3)),
    Scenario("SAGE sends half a line", _sage("half_line", DATA, 3), is_quick=True),
    Scenario("SAGE stalls for 10 s", _sage("stall", DATA, 2, seconds=10)),
    Scenario("storage answers 500", _sage("status", STORAGE, 20, status=500)),
    Scenario("storage answers 401", _sage("status", STORAGE, 20, status=401)),
    Scenario("storage sends half a file", _sage("half_line", STORAGE, 20)),
    Scenario("storage stalls for 10 s", _sage("stall", STORAGE, 5, seconds=10)),
    Scenario("a clock jumps a day ahead and back", _jump_clock),
    Scenario("images uploaded hours late", _look_over_the_day, bad_images.late),
    Scenario("images broken in every way", _nothing, bad_images.broken, is_quick=True),
    Scenario("an image that kills its process", _nothing, bad_images.poison, is_quick=True),
    Scenario("an image that hangs", _nothing, bad_images.hanging),
    Scenario("litter on the queue", _litter, is_quick=True, litter=len(bad_images.LITTER)),
    Scenario(
        "10,000 images, two workers killed every 10 s", _kill_again_and_again(30, 10),
        _good(10_000), seconds=1.0, patience=1800.0,
    ),
)  # fmt: skip
