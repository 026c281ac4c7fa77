"""A dependency that fails makes images wait; an image that fails alone does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import fakeredis
import pytest

from job_system import circuit_breaker
from job_system.circuit_breaker import CircuitBreaker, CircuitOpenError, is_of_dependency
from metrics.health import Probe
from processing import Stages
from weavloader import circuits, redis_keys
from weavloader.circuits import Circuits
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError, WeavloaderError
from weavloader.redis_connection import RedisClient

FAILURES, RETRY_SECONDS = 3, 420
MODEL_FAILS = TransientError("clip: the stub is dead", reason=Reason.MODEL_ERROR)
STORE_DOWN = TransientError("no", reason=Reason.STORE_UNREACHABLE)


class Site:
    """A fleet of one process: its circuits, and a stage of the pipeline that fails as told."""

    def __init__(self) -> None:
        self.redis = cast("RedisClient", fakeredis.FakeRedis())
        self.circuits = Circuits(self.redis, FAILURES, RETRY_SECONDS)
        self.error: WeavloaderError | None = None
        self.slept = 0.0
        self.stopping = False
        self.tried: list[str] = []
        self.probe: Probe = lambda: None
        self.after: Callable[[], None] = lambda: None

    def process(self, image_id: str, stage: str = "embed") -> str:
        """Process an image, which fails at a stage with the site's error if there is one."""
        stages = Stages()

        def work() -> str:
            self.tried.append(image_id)
            for name in ("lookup", "download"):
                with stages.timed(name):
                    pass
            with stages.timed(stage):
                if self.error is not None:
                    raise self.error
            return "stored"

        breaker = CircuitBreaker(
            self.circuits,
            self.redis,
            {"triton": self.probe, "store": self.probe},
            lambda: self.stopping,
            self._sleep,
        )
        return breaker.run(image_id, stages, work)

    def fail(self, *image_ids: str) -> None:
        """Process images that fail, each by its own error."""
        for image_id in image_ids:
            with pytest.raises(TransientError) as caught:
                self.process(image_id)
            assert not isinstance(caught.value, CircuitOpenError)

    def open_up(self) -> None:
        """Let so many images fail that the circuit opens."""
        self.error = MODEL_FAILS
        self.fail("1", "2")
        with pytest.raises(CircuitOpenError):
            self.process("3")

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        if self.slept % circuit_breaker.PROBE_SECONDS == 0:
            self.after()


@pytest.fixture
def site() -> Site:
    return Site()


def down(error: WeavloaderError, times: int) -> Probe:
    """A probe that fails so many times."""
    left = [error] * times

    def ask() -> None:
        if left:
            raise left.pop()

    return ask


def test_different_images_that_fail_in_a_row_open_the_circuit_whatever_the_probe_says(
    site: Site,
) -> None:
    site.open_up()
    (circuit,) = site.circuits.opened()
    assert (circuit.component, circuit.reason, circuit.stage) == ("triton", "model_error", "embed")


def test_an_image_that_fails_alone_opens_no_circuit(site: Site) -> None:
    site.error = MODEL_FAILS
    site.fail(*["poison"] * 4 * FAILURES)
    assert not site.circuits.opened()


def test_a_success_between_failures_opens_no_circuit(site: Site) -> None:
    for number in range(3 * FAILURES):
        site.error = MODEL_FAILS
        site.fail(f"bad {number}")
        site.error = None
        site.process(f"good {number}")
    assert not site.circuits.opened()


def test_a_stage_that_was_not_reached_is_no_success(site: Site) -> None:
    site.error = MODEL_FAILS
    site.fail("1", "2")
    site.error = None
    site.process("stored already", stage="lookup")
    site.error = MODEL_FAILS
    with pytest.raises(CircuitOpenError):
        site.process("3")


def test_the_image_that_opened_it_tries_once_and_goes_back_to_its_queue(site: Site) -> None:
    site.open_up()
    assert site.tried == ["1", "2", "3", "3"]
    assert site.slept == circuit_breaker.PROBE_SECONDS


def test_the_first_success_closes_the_circuit(site: Site) -> None:
    site.open_up()
    site.error = None
    assert site.process("4") == "stored"
    assert not site.circuits.opened()


def test_a_success_of_another_stage_leaves_it_open(site: Site) -> None:
    site.open_up()
    site.error = None
    site.process("already stored", stage="lookup")
    assert site.circuits.opened()


def test_one_image_at_a_time_tries(site: Site) -> None:
    site.open_up()
    site.redis.set(redis_keys.CIRCUIT_TRIAL, "another process")
    site.tried.clear()
    waited = iter(range(5))

    def give_up() -> None:
        if next(waited) == 3:
            site.redis.delete(redis_keys.CIRCUIT_TRIAL)
            site.error = None

    site.after = give_up
    assert not site.tried
    assert site.process("4") == "stored"
    assert site.tried == ["4"] and next(waited) == 4


def test_a_probe_that_fails_opens_the_circuit_at_once(site: Site) -> None:
    site.probe = down(STORE_DOWN, 3)
    site.error = STORE_DOWN

    def back() -> None:
        site.error = None

    site.after = back
    assert site.process("1", stage="store") == "stored"
    assert site.tried == ["1", "1"] and site.slept == 2 * circuit_breaker.PROBE_SECONDS


def test_a_schema_that_the_operator_must_fix_is_waited_for(site: Site) -> None:
    error = ConfigError("no such property", reason=Reason.STORE_SCHEMA)
    site.probe, site.error = down(error, 2), error

    def back() -> None:
        site.error = None

    site.after = back
    assert site.process("1", stage="lookup") == "stored"


def test_an_error_of_no_dependency_opens_nothing(site: Site) -> None:
    site.error = TransientError("", reason=Reason.TIME_LIMIT)
    site.fail(*"12345")
    assert not site.circuits.opened()


def test_a_permanent_failure_neither_opens_nor_closes(site: Site) -> None:
    site.open_up()
    site.error = PermanentError("", reason=Reason.BAD_INPUT)
    for image_id in "45678":
        with pytest.raises(PermanentError):
            site.process(image_id)
    assert site.circuits.opened()


def test_a_worker_that_stops_waits_no_longer(site: Site) -> None:
    site.open_up()
    site.redis.set(redis_keys.CIRCUIT_TRIAL, "another process")
    site.stopping, site.slept = True, 0.0
    with pytest.raises(CircuitOpenError):
        site.process("4")
    assert site.slept == 0


def test_a_wait_ends_within_the_time_limit_of_a_task(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.open_up()
    site.redis.set(redis_keys.CIRCUIT_TRIAL, "another process")
    monkeypatch.setattr(circuit_breaker, "MAX_WAIT_SECONDS", -1.0)
    with pytest.raises(CircuitOpenError) as caught:
        site.process("4")
    assert caught.value.reason == MODEL_FAILS.reason


def test_a_fault_of_many_among_successes_is_widespread_and_of_few_is_not(site: Site) -> None:
    for number in range(FAILURES):
        site.circuits.passed(["embed"])
        site.circuits.failed("embed", str(number))
    assert site.circuits.is_failing("embed")
    for _ in range(20 * FAILURES):
        site.circuits.passed(["embed"])
    assert not site.circuits.is_failing("embed")


def test_many_successes_before_a_fault_do_not_hide_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for second in range(4 * RETRY_SECONDS):
        monkeypatch.setattr(circuits, "shared_now", lambda _, at=second: at)
        site.circuits.passed(["embed"])
    for second in range(4 * RETRY_SECONDS, 5 * RETRY_SECONDS):
        monkeypatch.setattr(circuits, "shared_now", lambda _, at=second: at)
        if second % 5:
            site.circuits.passed(["embed"])
        else:
            site.circuits.failed("embed", str(second))
    assert site.circuits.is_failing("embed")


def test_few_images_far_apart_show_a_fault_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(FAILURES):
        monkeypatch.setattr(circuits, "shared_now", lambda _, at=number * RETRY_SECONDS: at)
        site.circuits.failed("embed", str(number))
    assert site.circuits.is_failing("embed")


def test_one_image_that_fails_often_is_not_widespread(site: Site) -> None:
    for _ in range(20):
        site.circuits.failed("embed", "poison")
    assert not site.circuits.is_failing("embed")


def test_a_circuit_that_no_image_waits_for_is_forgotten(site: Site) -> None:
    site.circuits.open("embed", Reason.MODEL_ERROR)
    assert 0 < site.redis.pttl(redis_keys.circuit("embed")) <= 700_000


@pytest.mark.parametrize(
    ("word", "is_concerned"),
    [
        ("triton_unavailable", True),
        ("model_missing", True),
        ("model_error", True),
        ("bad_answer", True),
        ("store_locked", True),
        ("storage_auth", True),
        ("storage_unreachable", True),
        ("manifest_unreachable", True),
        ("time_limit", False),
        ("out_of_memory", False),
    ],
)
def test_the_reasons_that_are_about_a_dependency(word: str, is_concerned: bool) -> None:
    error = TransientError("", reason=Reason[word.upper()])
    assert is_of_dependency(error) == is_concerned
