"""What a network of nodes sends in a day: evenly, all at once, and after outages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.simulation import Image, Outage

HOUR = 3600.0
_UPLOAD_SECONDS = 20.0
_SEED = 7


@dataclass(frozen=True, slots=True)
class Scenario:
    """One day of the network.

    Attributes:
        spread: Seconds of each hour over which the nodes take their picture; a schedule of
            "on the hour" makes it small.
        offline: Share of the nodes that have no network for ``offline_hours`` and then send all
            they have.
        outages: Of the models.
    """

    name: str
    spread: float = HOUR
    offline: float = 0.0
    offline_hours: float = 0.0
    outages: tuple[Outage, ...] = ()

    def images(self, nodes: int, hours: int) -> Iterator[Image]:
        """Every image of ``nodes`` nodes, one an hour each."""
        lots = random.Random(_SEED)
        offline = int(nodes * self.offline)
        back = HOUR * (1 + self.offline_hours)
        for node in range(nodes):
            moment = lots.uniform(0, self.spread)
            for hour in range(hours):
                captured = hour * HOUR + moment
                published = captured + lots.expovariate(1 / _UPLOAD_SECONDS)
                if node < offline and HOUR <= captured < back:
                    published = back + lots.uniform(0, 600.0)
                yield Image(captured, published)


SCENARIOS = (
    Scenario("spread over the hour"),
    Scenario("all within 5 minutes of the hour", spread=300.0),
    Scenario("models down for an hour", outages=(Outage(6 * HOUR, HOUR),)),
    Scenario("a fifth of the nodes offline for 12 h", offline=0.2, offline_hours=12.0),
)
