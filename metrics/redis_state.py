"""The state of Redis, read at the time of a scrape: queues, dead letters, stream, audit."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from redis import RedisError

from metrics.families import gauge, gauges
from metrics.metrics import PREFIX
from weavloader import redis_keys
from weavloader.circuits import COMPONENTS, Circuit, circuit_keys, parse_circuits
from weavloader.errors import Reason, TransientError
from weavloader.logs import printable
from weavloader.redis_connection import RedisClient

TIMEOUT = 2.0
# The states of an image are few; a report that names more is not from our audit.
MAX_STATES = 16
_STATE = re.compile(r"[a-z][a-z_]{0,31}")


@dataclass(frozen=True, slots=True)
class RedisState:
    """What Redis held at one moment.

    Attributes:
        at: That moment, Unix seconds.
        lengths: Messages waiting, by the names of :data:`weavloader.redis_keys.LANES`, and those
            that are due later.
        next_in_line: The message that each of them gives out next, as kombu wrote it.
        dead: Dead letters kept.
        last_poll: Report of the last poll of the stream, JSON with ``at``.
        newest: Capture time of the newest image received, Unix seconds.
        audit: Report of the last audit, JSON.
        circuits: Those that are open.
        saved: Report of the last round of deliveries of saved searches, JSON.
    """

    at: float
    lengths: Mapping[str, int]
    next_in_line: Mapping[str, bytes | None]
    dead: int
    last_poll: bytes | None
    newest: float | None
    audit: bytes | None
    circuits: Sequence[Circuit] = ()
    saved: bytes | None = None


def ping(client: RedisClient) -> None:
    """Ping Redis.

    Raises:
        TransientError: It did not answer.
    """
    try:
        client.ping()
    except RedisError as error:
        raise _unreachable(error) from error


def active_scheduler(client: RedisClient) -> str | None:
    """The name of the scheduler that holds the lock, or ``None`` without one.

    Raises:
        TransientError: Redis did not answer.
    """
    try:
        lock, name = client.mget([redis_keys.BEAT_LOCK, redis_keys.ACTIVE_SCHEDULER])
    except RedisError as error:
        raise _unreachable(error) from error
    if lock is None:
        return None
    return printable((name or b"a scheduler").decode(errors="replace"))


def read_state(client: RedisClient) -> RedisState:
    """All that a page says of Redis, in one round trip of O(1) commands, or O(log n) ones.

    Raises:
        TransientError: Redis did not answer.
    """
    pipeline = client.pipeline(transaction=False)
    for lane in redis_keys.LANES.values():
        pipeline.llen(lane)
        pipeline.lindex(lane, -1)  # kombu pushes at the head and pops at the tail
    pipeline.zcard(redis_keys.DELAYED)
    pipeline.zrange(redis_keys.DELAYED, 0, 0)
    pipeline.zcard(redis_keys.DEAD_LETTER_INDEX)
    pipeline.get(redis_keys.STREAM_LAST_POLL)
    pipeline.zscore(redis_keys.STREAM_NEWEST, redis_keys.STREAM_NEWEST_MEMBER)
    pipeline.get(redis_keys.AUDIT_LAST)
    pipeline.mget(circuit_keys())
    pipeline.get(redis_keys.SAVED_LAST)
    try:
        *lanes, delayed, first, dead, last_poll, newest, audit, circuits, saved = pipeline.execute()
    except RedisError as error:
        raise _unreachable(error) from error
    lengths = dict(zip(redis_keys.LANES, lanes[::2], strict=True))
    tails = dict(zip(redis_keys.LANES, lanes[1::2], strict=True))
    lengths[redis_keys.DELAYED_LANE] = delayed
    tails[redis_keys.DELAYED_LANE] = next(iter(first), None)
    found = parse_circuits(circuits)
    return RedisState(time.time(), lengths, tails, dead, last_poll, newest, audit, found, saved)


def redis_families(state: RedisState) -> list[Metric]:
    """Queues, dead letters, the stream and the audit, as they stand in Redis."""
    return [
        gauges("queue_size", "Messages waiting in a queue", "queue_name", state.lengths),
        gauges(
            "queue_oldest_seconds",
            "Seconds that the next message of a queue has waited; 0 for an empty queue",
            "queue_name",
            waited(state),
        ),
        gauge("dlq_size", "Dead letters in the queue", state.dead),
        *circuit_families(state.circuits),
        *stream_families(state.last_poll, state.newest, state.at),
        *audit_families(state.audit, state.at),
        *saved_families(state.saved, state.at),
    ]


def circuit_families(circuits: Sequence[Circuit]) -> list[Metric]:
    """Whether a circuit of each component is open, and of those that are, why and how long."""
    is_open = dict.fromkeys(map(str, COMPONENTS), 0.0)
    seconds = GaugeMetricFamily(
        PREFIX + "circuit_open_seconds",
        "Seconds since the circuit of a component opened; none while it is closed",
        labels=["component", "reason"],
    )
    longest: dict[tuple[str, str], float] = {}
    for circuit in circuits:
        is_open[str(circuit.component)] = 1.0
        name = (str(circuit.component), str(circuit.reason))
        longest[name] = max(circuit.seconds(), longest.get(name, 0.0))
    for labels, value in longest.items():
        seconds.add_metric(labels, value)
    text = "1 while the circuit breaker of a component is open"
    return [gauges("circuit_open", text, "component", is_open), seconds]


def stream_families(last_poll: bytes | None, newest: float | None, now: float) -> list[Metric]:
    """How far behind the stream the system is; nothing before the first poll.

    Args:
        last_poll: The moderator's report of its last poll, JSON with ``at``.
        newest: Capture time of the newest image received, Unix seconds.
        now: Unix seconds.
    """
    families = []
    if newest is not None:
        text = "Seconds since the capture of the newest image received"
        families.append(gauge("stream_lag_seconds", text, max(0.0, now - newest)))
    if (looked := _moment(_object(last_poll))) is not None:
        text = "Seconds since the last poll of the SAGE stream"
        families.append(gauge("stream_last_poll_seconds", text, max(0.0, now - looked)))
    return families


def audit_families(report: bytes | None, now: float) -> list[Metric]:
    """What the last audit counted; nothing before the first.

    Args:
        report: JSON with ``at`` (RFC 3339), ``counts`` (images by state) and ``repaired``.
        now: Unix seconds.
    """
    fields = _object(report)
    moment, counts = _moment(fields), _counts(fields.get("counts"))
    if moment is None or not counts:
        return []
    repaired = _counts({"repaired": fields.get("repaired", 0)}).get("repaired", 0)
    return [
        gauges("audit_images", "Images in each state of the last audit", "state", counts),
        gauge("audit_repaired", "Images that the last audit wrote again", repaired),
        gauge("audit_age_seconds", "Seconds since the last audit", max(0.0, now - moment)),
    ]


def saved_families(report: bytes | None, now: float) -> list[Metric]:
    """What waits for the receivers of saved searches; nothing before the first round.

    Args:
        report: JSON with the numbers ``waiting`` and ``discarded``, and ``away_since``, Unix
            seconds or null.
        now: Unix seconds.
    """
    fields = _object(report)
    names = ("waiting", "discarded", "away_since")
    told = {name: fields.get(name) for name in names}
    waiting, discarded, since = (
        float(value) if isinstance(value, int | float) else 0.0 for value in told.values()
    )
    if _moment(fields) is None:
        return []
    away = max(0.0, now - since) if since else 0.0
    return [
        gauge("saved_matches_waiting", "Matches that wait for a receiver", waiting),
        gauge(
            "saved_matches_discarded",
            "Matches of the present saved searches that were too many to wait",
            discarded,
        ),
        gauge(
            "saved_receiver_away_seconds",
            "Seconds since the receiver that is away longest first failed in a row; 0 for none",
            away,
        ),
    ]


def backlog_families(waiting: int, per_second: float | None) -> list[Metric]:
    """How long the backlog will take at the present throughput; nothing while that is unknown.

    Args:
        waiting: Live images; those of the low lane let them pass.
        per_second: How many images the workers begin in a second.
    """
    if per_second is None:
        return []
    never = math.inf if waiting else 0.0
    seconds = waiting / per_second if per_second else never
    text = "Seconds until the backlog of live images is begun, at the recent throughput"
    return [gauge("backlog_seconds", text, seconds)]


def waited(state: RedisState) -> dict[str, float]:
    """Seconds by queue; a message that does not say when it was queued is left out."""
    waited = {}
    for queue, message in state.next_in_line.items():
        queued = state.at if message is None else _queued_at(message)
        if queued is not None:
            waited[queue] = max(0.0, state.at - queued)
    return waited


def _queued_at(message: bytes) -> float | None:
    try:
        return float(json.loads(message)["headers"][redis_keys.QUEUED_AT])
    except (ValueError, TypeError, KeyError):
        return None


def _object(text: bytes | None) -> Mapping[str, object]:
    try:
        fields = json.loads(text or b"{}")
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _moment(fields: Mapping[str, object]) -> float | None:
    try:
        return datetime.fromisoformat(str(fields.get("at"))).timestamp()
    except ValueError:
        return None


def _counts(counts: object) -> dict[str, float]:
    if not isinstance(counts, dict) or len(counts) > MAX_STATES:
        return {}
    return {
        state: float(amount)
        for state, amount in counts.items()
        if _STATE.fullmatch(state) and isinstance(amount, int)
    }


def _unreachable(error: RedisError) -> TransientError:
    return TransientError(f"Redis: {type(error).__name__}", reason=Reason.REDIS_UNREACHABLE)
