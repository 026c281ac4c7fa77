"""Points on Earth and their distance."""

from __future__ import annotations

import pytest

from weavloader.geo import Location, distance_km, to_location


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (90, -180, Location(90, -180)),
        ("41.7", " -87.9 ", Location(41.7, -87.9)),
        (0, 0, Location(0, 0)),
        (90.1, 0, None),
        (0, 180.1, None),
        (float("nan"), 0, None),
        (0, float("-inf"), None),
        (True, False, None),
        (None, None, None),
        ("", "", None),
        ([], {}, None),
        (10**400, 0, None),
        ("1e400", 0, None),
        (41.7, None, None),
    ],
)
def test_a_place_is_two_finite_numbers_on_the_globe(
    latitude: object, longitude: object, expected: Location | None
) -> None:
    assert to_location(latitude, longitude) == expected


def test_distances_follow_great_circles() -> None:
    assert distance_km(Location(0, 0), Location(0, 180)) == pytest.approx(20015, abs=1)
    chicago, antipode = Location(41.88, -87.63), Location(-41.88, 92.37)
    assert distance_km(chicago, chicago) == 0
    assert distance_km(chicago, antipode) == pytest.approx(20015, abs=1)
    assert distance_km(Location(0, 179.5), Location(0, -179.5)) == pytest.approx(111.2, abs=0.1)
