"""The circuits of the fleet, in Redis: which stage of the pipeline fails for image after image.

A circuit opens when images fail at the same stage one after another. What one process learns, all
know; metrics, health and pages read the same keys.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from weavloader import redis_keys
from weavloader.errors import Component, Reason, find_reason
from weavloader.redis_connection import RedisClient, shared_now
from weavloader.times import duration

# The stages at which a dependency can fail; decoding has none.
STAGES = ("lookup", "download", "caption", "embed", "node", "store")
COMPONENTS = (
    Component.TRITON,
    Component.CAPTIONER,
    Component.STORE,
    Component.STORAGE,
    Component.SAGE,
)
# An open circuit that no image waits for is forgotten; longer than any image takes.
_OPEN_SECONDS = 700
# Retries of an image are some minutes apart.
_ROW_SECONDS = 3600
# Below it, a fault that comes and goes lets an image through its four attempts.
_SHARE = 0.1
# Half the time that the retries of an image take is a span. The share is that of the last three,
# which a fault has filled by then however many images passed before it, or that of the last eight,
# where images are few.
_SPANS = (3, 8)


@dataclass(frozen=True, slots=True)
class Circuit:
    """An open circuit.

    Attributes:
        stage: One of :data:`STAGES`.
        reason: Of the failure that opened it.
        since: Unix seconds.
    """

    stage: str
    reason: Reason
    since: float

    @property
    def component(self) -> Component:
        """What fails."""
        return self.reason.component

    def seconds(self) -> float:
        """How long it has been open."""
        return max(0.0, time.time() - self.since)

    def __str__(self) -> str:
        """Component, reason and time in words."""
        return f"{self.component}: {self.reason} for {duration(self.seconds())}"


def circuit_keys() -> list[str]:
    """The keys of all circuits, for ``MGET``."""
    return [redis_keys.circuit(stage) for stage in STAGES]


def parse_circuits(texts: Iterable[bytes | None]) -> list[Circuit]:
    """The open ones of what Redis gave for :func:`circuit_keys`."""
    return [circuit for text in texts if text and (circuit := _circuit(text))]


def open_circuits(redis: RedisClient) -> list[Circuit]:
    """The circuits that are open, in the order of the stages.

    Raises:
        RedisError: Redis did not answer.
    """
    return parse_circuits(redis.mget(circuit_keys()))


class Circuits:
    """The circuits, for those who process images.

    Args:
        redis: A client that gives bytes.
        failures: So many images in a row open a circuit.
        retry_seconds: How long the retries of an image take.
    """

    def __init__(self, redis: RedisClient, failures: int, retry_seconds: float) -> None:
        self._redis = redis
        self._failures = failures
        self._span_seconds = max(retry_seconds / 2, 1.0)

    def opened(self) -> list[Circuit]:
        """The circuits that are open, in the order of the stages."""
        return open_circuits(self._redis)

    def open(self, stage: str, reason: Reason) -> Circuit:
        """Open a circuit, or keep it open; the present one."""
        circuit = Circuit(stage, reason, time.time())
        self._redis.set(
            redis_keys.circuit(stage), json.dumps(asdict(circuit)), ex=_OPEN_SECONDS, nx=True
        )
        self.keep_open([circuit])
        return circuit

    def keep_open(self, circuits: Iterable[Circuit]) -> None:
        """Say that an image waits for them; one that has closed stays closed."""
        with self._redis.pipeline(transaction=False) as pipe:
            for circuit in circuits:
                pipe.expire(redis_keys.circuit(circuit.stage), _OPEN_SECONDS)
            pipe.execute()

    def passed(self, stages: Iterable[str]) -> None:
        """Count an image that passed these stages; their circuits close."""
        concerned = [stage for stage in STAGES if stage in set(stages)]
        if not concerned:
            return
        span = self._span()
        with self._redis.pipeline(transaction=False) as pipe:
            for stage in concerned:
                pipe.delete(redis_keys.circuit(stage), redis_keys.circuit_row(stage))
                pipe.incr(redis_keys.circuit_passed(stage, span))
                pipe.expire(redis_keys.circuit_passed(stage, span), self._kept_seconds())
            pipe.execute()

    def failed(self, stage: str, image_id: str) -> bool:
        """Count an image that failed at a stage.

        Returns:
            Whether so many in a row have that the circuit must open.
        """
        span = self._span()
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.sadd(redis_keys.circuit_row(stage), image_id)
            pipe.expire(redis_keys.circuit_row(stage), _ROW_SECONDS)
            pipe.scard(redis_keys.circuit_row(stage))
            pipe.pfadd(redis_keys.circuit_failed(stage, span), image_id)
            pipe.expire(redis_keys.circuit_failed(stage, span), self._kept_seconds())
            in_a_row = pipe.execute()[2]
        return int(in_a_row) >= self._failures

    def is_failing(self, stage: str) -> bool:
        """Whether so many of the images lately failed at a stage that it, rather than each of
        them, is at fault."""
        return any(self._is_failing(stage, spans) for spans in _SPANS)

    def _is_failing(self, stage: str, amount: int) -> bool:
        last = self._span()
        spans = range(last - amount + 1, last + 1)
        failed = self._redis.pfcount(*(redis_keys.circuit_failed(stage, each) for each in spans))
        counts = self._redis.mget([redis_keys.circuit_passed(stage, each) for each in spans])
        tried = failed + sum(int(count) for count in counts if count)
        return failed >= max(self._failures, _SHARE * tried)

    def _span(self) -> int:
        return int(shared_now(self._redis) // self._span_seconds)

    def _kept_seconds(self) -> int:
        return int(self._span_seconds * (max(_SPANS) + 1))


def _circuit(text: bytes) -> Circuit | None:
    try:
        fields = json.loads(text)
        reason = find_reason(fields["reason"])
        if reason is None:
            return None  # of a newer version
        return Circuit(str(fields["stage"]), reason, float(fields["since"]))
    except (ValueError, TypeError, KeyError):
        return None
