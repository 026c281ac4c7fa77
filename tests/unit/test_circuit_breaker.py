"""An outage is waited out; what is no outage is left to the retries."""

from __future__ import annotations

import pytest

from job_system import circuit_breaker
from job_system.circuit_breaker import CircuitBreaker, CircuitOpenError, component_of
from weavloader.errors import ConfigError, Reason, TransientError, WeavloaderError

DOWN = TransientError("no", reason=Reason.STORE_UNREACHABLE)


class Store:
    """Down for so many questions."""

    def __init__(self, refusals: int, error: WeavloaderError = DOWN) -> None:
        self.refusals = refusals
        self.error = error

    def ask(self) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise self.error


class Sleeper:
    """Counts the seconds slept."""

    slept = 0.0

    def __call__(self, seconds: float) -> None:
        self.slept += seconds


def circuits(store: Store, sleep: Sleeper, stopping: bool = False) -> CircuitBreaker:
    return CircuitBreaker({"store": store.ask}, lambda: stopping, sleep)


def test_an_outage_is_waited_out() -> None:
    sleep = Sleeper()
    assert circuits(Store(3), sleep).wait_until_closed(DOWN)
    assert sleep.slept == 2 * circuit_breaker.PROBE_SECONDS


def test_a_component_that_answers_had_no_outage() -> None:
    sleep = Sleeper()
    assert not circuits(Store(0), sleep).wait_until_closed(DOWN)
    assert sleep.slept == 0


def test_an_error_of_no_component_is_none_of_its_business() -> None:
    error = TransientError("SAGE", reason=Reason.SAGE_UNREACHABLE)
    assert not circuits(Store(9), Sleeper()).wait_until_closed(error)


def test_a_worker_that_stops_waits_no_longer() -> None:
    with pytest.raises(CircuitOpenError):
        circuits(Store(9), Sleeper(), stopping=True).wait_until_closed(DOWN)


def test_a_wait_ends_within_the_time_limit_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "MAX_WAIT_SECONDS", -1.0)
    with pytest.raises(CircuitOpenError) as caught:
        circuits(Store(9), Sleeper()).wait_until_closed(DOWN)
    assert caught.value.reason == DOWN.reason


def test_a_schema_that_the_operator_must_mend_is_waited_for() -> None:
    error = ConfigError("no such property", reason=Reason.STORE_SCHEMA)
    assert circuits(Store(2, error), Sleeper()).wait_until_closed(error)


@pytest.mark.parametrize(
    ("word", "component"),
    [
        ("triton_unavailable", "triton"),
        ("model_missing", "triton"),
        ("store_locked", "store"),
        ("model_error", None),
        ("storage_unreachable", None),
        ("manifest_unreachable", None),
    ],
)
def test_a_reason_names_its_component(word: str, component: str | None) -> None:
    assert component_of(TransientError("", reason=Reason[word.upper()])) == component
