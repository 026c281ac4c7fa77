"""What is done to roles, models, SAGE and messages: each act brings a fault about, and ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta

from demo.sage_replay.catalogue import SECOND
from demo.sage_replay.faults import STORAGE, Fault
from demo.servers.ports import HOST
from metrics.redis_state import read_state
from tests.chaos import bad_images
from tests.chaos.dataset import FORBIDDEN_VSN
from tests.chaos.processes import Ended
from tests.chaos.role import CLOCK, HASTY, NAMES, RECYCLED, TRITONS
from tests.chaos.system import PROCESSORS, ROLES, FaultAction, System
from tests.chaos.waits import (
    LONG,
    listed_images,
    pause,
    wait_for_answers,
    wait_for_work,
    wait_until_done,
    wait_until_listed,
    wait_until_taken,
)
from tests.support.firewall import firewall
from weavloader import redis_keys

# Of twenty images of a forbidden node: each of six processes may have asked before one knows.
MAX_REFUSALS = 8
# Which every role has, in the time of a quiet machine.
QUIET_SECONDS = 3.0
END_SECONDS = 60.0
SECOND_TRITON = "127.0.0.2"
# Days that the clocks of roles' hosts are ahead.
CLOCKS = {"moderator": -3, "stream": 2, "processor": 40, "processor2": -40, "cleaner": 10}
# A request with a picture has more.
_SOME_WORK = 100_000


def nothing(system: System) -> None:
    """No fault at all: the suite's own measure."""


def kill(*roles: str, number: int = signal.SIGKILL) -> FaultAction:
    """Send main processes a signal while models think about images."""

    def bring_about(system: System) -> None:
        system.models.behave("think")
        wait_for_answers(system, 3)
        for role in roles:
            system.kill(role, number)
        system.models.behave("ok")

    return bring_about


def kill_children(system: System) -> None:
    """Kill a process of each processor, three times, while models think about its image."""
    system.models.behave("think")
    for _ in range(3):
        wait_for_answers(system, 3)
        for role in PROCESSORS:
            system.kill_a_child(role)
    system.models.behave("ok")


def kill_in_mid_poll(system: System) -> None:
    """Kill all of the moderator as soon as it has taken images, twice."""
    with closing(system.redis()) as redis:
        for _ in range(2):
            wait_until_taken(system, redis)
            system.kill_whole("moderator")


def kill_again_and_again(times: int, every: float) -> FaultAction:
    """Kill both processors, ``every`` so many seconds."""

    def bring_about(system: System) -> None:
        for _ in range(times):
            pause(every)
            for role in PROCESSORS:
                system.kill(role)
            system.tend()

    return bring_about


def kill_at_work(system: System) -> None:
    """Kill both processors twice, as soon as they are at work again.

    An image that is in work at three such deaths is held to have caused them.
    """
    for _ in range(2):
        wait_for_answers(system, 10)
        for role in PROCESSORS:
            system.kill(role)


def stop_triton(seconds: float) -> FaultAction:
    """Stop Triton, and start it so many seconds later."""

    def bring_about(system: System) -> None:
        wait_for_work(system)
        system.models.server.stop()
        pause(seconds)
        system.models.server.start()

    return bring_about


def kill_a_models_process(system: System) -> None:
    """Kill the process of a model, and restart Triton when retries are long spent."""
    wait_for_answers(system, 3)
    system.models.kill_process("clip")
    pause(LONG)
    system.models.server.stop()
    system.models.server.start()


def let_models(mode: str, seconds: float = 6) -> FaultAction:
    """Let the models misbehave for so long; see :mod:`tests.chaos.faulty_model`."""

    def bring_about(system: System) -> None:
        wait_for_answers(system, 1)
        system.models.behave(mode)
        pause(seconds)
        system.models.behave("ok")

    return bring_about


def lose_names(system: System) -> None:
    """Let nothing be looked up, twice for 25 s, while Redis restarts and new processes begin."""
    away = system.folder / "names"
    system.restart(ROLES, f"{NAMES}{away}")
    try:
        for number in (socket.EAI_AGAIN, socket.EAI_NONAME):
            wait_for_answers(system, 3)
            written = away.with_suffix(".new")
            written.write_text(str(int(number)))
            written.rename(away)
            system.stop_redis(signal.SIGTERM)
            system.start_redis()
            for role in PROCESSORS:
                system.kill_a_child(role)
            pause(25)
            away.unlink()
        wait_until_done(system, 60)
    finally:
        system.restart(ROLES)


def recycle_in_outages(system: System) -> None:
    """Run each task in a new process, while Triton and then the store are away for 15 s."""
    system.restart(PROCESSORS, RECYCLED)
    try:
        for stop, start in (
            (system.models.server.stop, system.models.server.start),
            (system.break_store, system.mend_store),
        ):
            wait_for_answers(system, 3)
            stop()
            pause(15)
            start()
        wait_until_done(system, 90)
    finally:
        system.restart(PROCESSORS)


def refuse_downloads(status: int) -> FaultAction:
    """Let storage answer nothing but an error until retries are long spent."""

    def bring_about(system: System) -> None:
        fault = Fault("status", count=1_000_000, target=STORAGE, status=status)
        system.replay.add_fault(fault)
        pause(LONG)
        fault.count = 0

    return bring_about


def disturb(kind: str, target: str, count: int, **details: int) -> FaultAction:
    """Let the next requests to SAGE go wrong."""

    def bring_about(system: System) -> None:
        system.replay.add_fault(Fault(kind, count=count, target=target, **details))
        pause(3)

    return bring_about


def end_answers_early(system: System) -> None:
    """Let SAGE's first answer to a backfill end early, as if it were whole."""
    wait_until_listed(system)
    moments = [entry.at / SECOND for entry in system.replay.catalogue.entries]
    start, end = (
        datetime.fromtimestamp(moment, UTC).isoformat()
        for moment in (min(moments) - 1, max(moments) + 1)
    )
    system.replay.add_fault(Fault("short_answer"))
    system.run("backfill", "--start", start, "--end", end)


def delay_images(system: System) -> None:
    """Queue images as tasks that are due in 40 s, as an outage leaves them; all are counted."""
    jobs = listed_images(system)
    for job in jobs:
        system.send_task(
            "process_image_task", args=[job.to_message()], task_id=job.id, countdown=40
        )
    with closing(system.redis()) as redis:

        def are_counted() -> bool:
            lengths = read_state(redis).lengths
            lanes = (redis_keys.IMAGE_QUEUE, redis_keys.DELAYED_LANE)
            return sum(lengths[lane] for lane in lanes) >= len(jobs) and not lengths[lanes[0]]

        system.wait_until(are_counted, "images that wait are counted", 20)


def jump_clock(system: System) -> None:
    """Leave what a clock that was a day ahead would have left."""
    wait_for_work(system)
    with closing(system.redis()) as redis:
        ahead = datetime.now(UTC) + timedelta(days=1)
        redis.set(redis_keys.STREAM_CURSOR, ahead.isoformat())


def set_clocks_apart(system: System) -> None:
    """Let the hosts' clocks be days apart, while storage fails so that images are retried."""
    system.replay.add_fault(Fault("status", count=12, target=STORAGE, status=500))
    for role, days in CLOCKS.items():
        system.restart([role], f"{CLOCK}{days}")
    try:
        wait_until_done(system, 120)
    finally:
        system.restart(ROLES)


def forget_what_was_taken(system: System) -> None:
    """Let the moderator take every image a second time."""
    with closing(system.redis()) as redis:
        wait_until_taken(system, redis)
        pause(5)  # until all are
        redis.delete(redis_keys.SEEN)
        wait_until_taken(system, redis)


def run_task(name: str) -> FaultAction:
    """Run a task of the schedule when all images are listed."""

    def bring_about(system: System) -> None:
        wait_until_listed(system)
        system.send_task(name)

    return bring_about


def hurry(system: System) -> None:
    """Give an image 6 s, and 10 s if it hears no signal, until those that hang have died of it."""
    system.restart(PROCESSORS, HASTY)
    try:
        wait_until_done(system, 150)
    finally:
        system.restart(PROCESSORS)


def foreign_messages(system: System) -> None:
    """Put on the queue what is no task."""
    with closing(system.redis()) as redis:
        for rubbish in bad_images.FOREIGN_MESSAGES:
            redis.lpush(redis_keys.IMAGE_QUEUE, rubbish)


def hostile_messages(system: System) -> None:
    """Put on every queue, and on the channels, what would end the worker that receives it."""
    wait_for_work(system)
    with closing(system.redis()) as redis:
        for queue in redis_keys.QUEUES:
            redis.lpush(queue, bad_images.hostile_message(queue))
        for channel, rubbish in bad_images.HOSTILE_BROADCASTS:
            redis.publish(channel, rubbish)
    pause(10)
    assert not system.has_ended(), "a worker ended"


def forbid_a_node(system: System) -> None:
    """Let storage refuse the account one node's images, which is asked for once and remembered."""
    refused = system.replay.ledger.statuses[STORAGE]
    before = refused[403]
    wait_until_done(system, 60)
    assert refused[403] - before <= MAX_REFUSALS, "a forbidden node was asked again"
    with closing(system.redis()) as redis:
        assert redis.ttl(redis_keys.forbidden(FORBIDDEN_VSN.lower())) > 3000, "it was forgotten"
    assert not system.failures().keys() - {"workers"}, "health took it for an outage"


def wait_for_late_files(system: System) -> None:
    """Wait until the files have arrived, which are then to be stored within a minute."""
    with closing(system.redis()) as redis:
        wait_until_taken(system, redis)
    pause(75)


def add_a_triton(system: System) -> None:
    """Let the name of Triton stand for a second one too; it is to have its share of the work."""
    port = system.models.server.ports.grpc
    addresses = system.folder / "tritons"
    addresses.write_text(HOST)
    with firewall(port, (SECOND_TRITON, port)) as second:
        system.restart(PROCESSORS, f"{TRITONS}{addresses}")
        wait_for_answers(system, 3)
        addresses.write_text(f"{HOST} {SECOND_TRITON}")
        try:
            system.wait_until(lambda: second.sent > _SOME_WORK, "work for the added Triton", 40)
            wait_until_done(system, 60)
        finally:
            system.restart(PROCESSORS)


def fill_metrics_folder(system: System) -> None:
    """Let there be no space for metrics, which are lost, and images not."""
    with system.full_metrics_folder():
        wait_until_done(system, 90)
    assert "metrics of this process are not shared" in system.log_of(), "there was space"


def end_all_without_redis(system: System) -> None:
    """Ask every role to end while it works and Redis is gone; start all again."""
    wait_for_answers(system, 3)
    system.stop_redis(signal.SIGKILL)
    ended = system.end_all(END_SECONDS)
    system.start_redis()
    _start_all_that_ended_in_time(system, ended)


def end_all_with_frozen_triton(system: System) -> None:
    """Ask every role to end while models compute and Triton is frozen; start all again."""
    system.models.behave("think")
    wait_for_answers(system, 3)
    system.models.signal(signal.SIGSTOP)
    ended = system.end_all(END_SECONDS)
    system.models.signal(signal.SIGCONT)
    system.models.behave("ok")
    # Triton may crash when it goes on with questions that nobody waits for any more.
    system.models.server.stop()
    system.models.server.start()
    _start_all_that_ended_in_time(system, ended)


def _start_all_that_ended_in_time(system: System, ended: Mapping[str, Ended]) -> None:
    late = {
        role: ended.get(role)
        for role in ROLES
        if role not in ended or ended[role].code or ended[role].seconds > QUIET_SECONDS
    }
    system.restart([role for role in ROLES if role not in ended])
    assert not late, f"roles did not end in time: {late}"
