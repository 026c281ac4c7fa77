"""What is done to a system: each act brings a fault about, and ends it."""

from __future__ import annotations

import signal
import socket
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Thread
from typing import Any
from uuid import UUID

from redis.exceptions import ResponseError

from demo.sage_replay.faults import STORAGE, Fault
from demo.servers.ports import HOST
from tests.chaos import bad_images
from tests.chaos.dataset import EXCLUDED_VSN, FORBIDDEN_VSN
from tests.chaos.real_weaviate import searchable_links, stored_links
from tests.chaos.role import HASTY, NAMES, RECYCLED, TRITONS
from tests.chaos.system import PROCESSORS, ROLES, Ended, System, pause
from tests.support.firewall import firewall
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.images.job import image_id
from weavloader.settings import Settings
from weavloader.stream.audit import waiting_for_retry

FaultAction = Callable[[System], None]
# Three retries wait 2, 4 and 8 s here, and the slowest failure takes 5.
LONG = 45.0
# Of twenty images of a forbidden node: each of six processes may have asked before one knows.
MAX_REFUSALS = 8
# Which every role has, in the time of a quiet machine.
QUIET_SECONDS = 3.0
END_SECONDS = 60.0
# What Celery says of an error that ends its worker.
WORKER_ENDED = "Unrecoverable error"
SECOND_TRITON = "127.0.0.2"
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
            _wait_until_taken(system, redis)
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


def end_redis(number: int, seconds: float) -> FaultAction:
    """End Redis by a signal, and start it so many seconds later."""

    def bring_about(system: System) -> None:
        _wait_for_work(system)
        system.stop_redis(number)
        pause(seconds)
        system.start_redis()

    return bring_about


def freeze_redis(system: System) -> None:
    """Let Redis be there and say nothing."""
    _wait_for_work(system)
    system.signal_redis(signal.SIGSTOP)
    pause(20)
    system.signal_redis(signal.SIGCONT)


def fill_redis(system: System) -> None:
    """Let Redis refuse every write, as one that may use no more memory."""
    _wait_for_work(system)
    with closing(system.redis()) as redis:
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        pause(10)
        redis.config_set("maxmemory", 0)


def fill_redis_disk(system: System) -> None:
    """Let Redis's append-only file not grow, after which it refuses every write."""
    _wait_for_work(system)
    before = system.log_of().count(WORKER_ENDED)
    with closing(system.redis()) as redis:
        with system.full_redis_disk():
            system.wait_until(lambda: _is_refused(redis), "a write that is refused")
            pause(10)
        system.wait_until(lambda: not _is_refused(redis), "a write that is taken")
    assert system.log_of().count(WORKER_ENDED) == before, "a worker ended"


def keep_redis_busy(system: System) -> None:
    """Let a script of another program run for 10 s, for which Redis refuses every command."""
    _wait_for_work(system)
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
        _wait_for_work(system)
        with system.failed_over(between):
            wait_until_done(system, 90)


def _is_refused(redis: Any) -> bool:
    try:
        redis.set("chaos", "written")
    except ResponseError:
        return True
    return False


def _run_without_end(redis: Any) -> None:
    with suppress(ResponseError):  # it is killed
        redis.eval("while true do end", 0)


def stop_triton(seconds: float) -> FaultAction:
    """Stop Triton, and start it so many seconds later."""

    def bring_about(system: System) -> None:
        _wait_for_work(system)
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


def take_store_away(seconds: float) -> FaultAction:
    """Take the store away for so many seconds."""

    def bring_about(system: System) -> None:
        _wait_for_work(system)
        system.break_store()
        pause(seconds)
        system.mend_store()

    return bring_about


def take_store_away_from_thinkers(system: System) -> None:
    """Take the store away for 10 s while models have images to think about."""
    system.models.behave("think")
    wait_for_answers(system, 8)  # by then every process has an image
    system.break_store()
    pause(10)
    system.mend_store()
    system.models.behave("ok")


def refuse_half(system: System) -> None:
    """Let the store refuse every second image for 6 s, which retries outlast."""
    _wait_for_work(system)
    with system.half_a_store():
        pause(6)


def lock_store(seconds: float) -> FaultAction:
    """Let the store be read and not written, for longer than writers wait for its lock."""

    def bring_about(system: System) -> None:
        _wait_for_work(system)
        with closing(sqlite3.connect(system.store_path / "store.sqlite3")) as database:
            database.execute("BEGIN IMMEDIATE")
            pause(seconds)
            database.rollback()

    return bring_about


def kill_weaviate(system: System) -> None:
    """Kill Weaviate while images are written, twice; the audit is to repair what it forgot.

    It forgets the last entries of its index, those of confirmed objects too.
    """
    assert system.weaviate is not None
    settings = system.settings()
    for _ in range(2):
        before = stored_links(settings).total()
        system.wait_until(partial(_holds_more, settings, before + 5), "images that are stored")
        system.weaviate.kill()
        pause(5)
        system.weaviate.start()
    wait_until_done(system, 120)
    _send_task(system, "audit_images")
    system.wait_until(
        lambda: searchable_links(settings) == stored_links(settings).keys(),
        "images that a search finds",
        60,
    )


def _holds_more(settings: Settings, than: int) -> bool:
    return stored_links(settings).total() > than


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


def jump_clock(system: System) -> None:
    """Leave what a clock that was a day ahead would have left."""
    _wait_for_work(system)
    with closing(system.redis()) as redis:
        ahead = datetime.now(UTC) + timedelta(days=1)
        redis.set(redis_keys.STREAM_CURSOR, ahead.isoformat())


def forget_what_was_taken(system: System) -> None:
    """Let the moderator take every image a second time."""
    with closing(system.redis()) as redis:
        _wait_until_taken(system, redis)
        pause(5)  # until all are
        redis.delete(redis_keys.SEEN)
        _wait_until_taken(system, redis)


def run_task(name: str) -> FaultAction:
    """Run a task of the schedule when all images are listed."""

    def bring_about(system: System) -> None:
        pause(5)
        _send_task(system, name)

    return bring_about


def hurry(system: System) -> None:
    """Give an image 6 s, and 10 s if it hears no signal, until two have died of it."""
    with closing(system.redis()) as redis:
        dead_letters = DeadLetters(redis, ttl=1)
        enough = dead_letters.count() + 2
        system.restart(PROCESSORS, HASTY)
        try:
            system.wait_until(lambda: dead_letters.count() >= enough, "two dead letters", 150)
        finally:
            system.restart(PROCESSORS)


def foreign_messages(system: System) -> None:
    """Put on the queue what is no task."""
    with closing(system.redis()) as redis:
        for rubbish in bad_images.FOREIGN_MESSAGES:
            redis.lpush(redis_keys.IMAGE_QUEUE, rubbish)


def hostile_messages(system: System) -> None:
    """Put on every queue, and on the channels, what would end the worker that receives it."""
    _wait_for_work(system)
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
        _wait_until_taken(system, redis)
    pause(75)


def drop_redis_connections(system: System) -> None:
    """Let a firewall forget every connection to Redis, which both ends take for open."""
    with system.behind_firewall() as between:
        _wait_for_work(system)
        between.forget()
        # Each of a role's connections is found out by a command that times out, after 30 s.
        wait_until_done(system, 150)


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


def _send_task(system: System, name: str) -> None:
    from job_system import celery_app

    # Not the Redis of this process's settings, from which another may have taken over.
    url = system.environment()["CELERY_BROKER_URL"]
    with celery_app.connection_for_write(url) as connection:
        celery_app.send_task(f"job_system.tasks.{name}", connection=connection, ignore_result=True)


def wait_until_done(system: System, seconds: float) -> None:
    """Wait until all images of the scenario were received, and none is queued or in work."""
    records = [entry.record for entry in system.replay.catalogue.entries]
    links = [str(record["value"]) for record in records if EXCLUDED_VSN not in str(record)]
    ids = [UUID(image_id(link)).bytes for link in links]
    with closing(system.redis()) as redis:

        def is_done() -> bool:
            is_received = None not in redis.zmscore(redis_keys.SEEN, ids)
            return is_received and not set(ids) & waiting_for_retry(redis).keys()

        system.wait_until(is_done, "images that are done", seconds)


def wait_for_answers(system: System, amount: int) -> None:
    """Wait until models have answered so many times more."""
    enough = system.models.answers().total() + amount
    system.wait_until(lambda: system.models.answers().total() >= enough, "answers of models")


def _wait_until_taken(system: System, redis: Any) -> None:
    """Wait until images are marked as taken that were not."""
    before = redis.zcard(redis_keys.SEEN)
    system.wait_until(lambda: redis.zcard(redis_keys.SEEN) > before, "images that are taken")


def _wait_for_work(system: System) -> None:
    """Wait until images are being worked on."""
    with closing(system.redis()) as redis:

        def in_work() -> int:
            workers = [name.decode() for name in redis.hkeys(redis_keys.WORKERS)]
            held = sum(redis.hlen(redis_keys.unacked(worker)) for worker in workers)
            return int(held + redis.llen(redis_keys.IMAGE_QUEUE))

        system.wait_until(in_work, "images in work")
