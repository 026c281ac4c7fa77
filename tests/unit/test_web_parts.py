"""What the pages are made of, each part alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest

from inference.preview.captions import PREFIX
from weavloader.geo import Location
from web.captions import PREVIEW_PREFIX, Caption
from web.map import HEIGHT, WIDTH, describe, draw_map, map_data
from web.query import PageQuery, parse_query
from web.snapshot import Snapshot, images_per_minute

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_a_preview_caption_is_told_from_a_models() -> None:
    assert PREVIEW_PREFIX == PREFIX
    assert Caption.read("Preview caption: a dim picture.") == Caption("a dim picture.", (), True)
    assert Caption.read("Snow on a ridge.") == Caption("Snow on a ridge.")


def test_labels_of_a_caption_become_keywords() -> None:
    read = Caption.read("DESCRIPTION: A road.\nTwo cars. LABELS: car, road , tree")
    assert read == Caption("A road.\nTwo cars.", ("car", "road", "tree"))
    preview = Caption.read("DESCRIPTION: Preview caption: a sky. LABELS: blue sky")
    assert preview == Caption("a sky.", ("blue sky",), True)


@pytest.mark.parametrize("text", ["", "LABELS:", "DESCRIPTION:", "<script>", "x" * 4000], ids=repr)
def test_any_text_is_a_caption(text: str) -> None:
    assert isinstance(Caption.read(text), Caption)


def test_an_address_holds_all_of_a_query_and_nothing_else() -> None:
    query = PageQuery("snow & ice", vsn="W021", since="24h", alpha=0.7, page=3)
    address = query.address(page=3)
    arguments = dict(pair.split("=") for pair in address.removeprefix("/?").split("&"))
    assert arguments.keys() == {"q", "vsn", "since", "alpha", "page"}
    assert PageQuery().address() == "/"
    assert query.address(vsn="") == "/?q=snow+%26+ice&since=24h&alpha=0.7"


def test_an_address_reads_as_the_query_it_was_made_from() -> None:
    query = PageQuery("snow & ice", vsn="W021", until="2026-01-31", alpha=0, page=2, limit=10)
    given = {"q": "snow & ice", "vsn": "W021", "until": "2026-01-31", "alpha": "0", "page": "2"}
    given["limit"] = "10"
    assert parse_query(lambda name: [given[name]] if name in given else []) == query


def test_a_location_is_described_by_the_nearest_city() -> None:
    assert describe(Location(41.7016, -87.9953)) == "36 km south-west of Chicago"
    assert describe(Location(40.0149, -105.2705)) == "in or near Boulder"


@pytest.mark.parametrize(
    "place",
    [Location(41.7, -88), Location(90, 0), Location(-90, 180), Location(0, -180), Location(71, 25)],
    ids=str,
)
def test_a_map_can_be_drawn_anywhere(place: Location) -> None:
    drawn = draw_map(place)
    assert (drawn.x, drawn.y) == (WIDTH / 2, HEIGHT / 2)
    assert all(0 < city.x < WIDTH and 0 < city.y < HEIGHT for city in drawn.cities)
    assert drawn.description


def test_a_map_shows_land_lakes_and_the_cities_around() -> None:
    drawn = draw_map(Location(41.7016, -87.9953))
    assert drawn.land and drawn.water and drawn.borders
    assert {"Chicago", "Milwaukee"} <= {city.name for city in drawn.cities}


def test_every_point_of_the_map_data_is_on_earth() -> None:
    data = map_data()
    assert len(data.cities) > 100
    assert all(abs(at.latitude) <= 90 and abs(at.longitude) <= 180 for at in data.cities.values())
    for lon, lat in chain(*data.land, *data.water, *data.borders):
        assert abs(lat) <= 90 and abs(lon) <= 180


def snapshots(*stored: int | None, every: float = 30) -> list[Snapshot]:
    return [
        Snapshot(NOON + timedelta(seconds=every * n), stored=count)
        for n, count in enumerate(stored)
    ]


def test_images_per_minute_are_counted_over_the_last_minute() -> None:
    assert images_per_minute(snapshots(0, 100, 110, 115, 130)) == 20
    assert images_per_minute(snapshots(0, 5)) == 10


def test_images_per_minute_are_unknown_rather_than_wrong() -> None:
    assert images_per_minute([]) is None
    assert images_per_minute(snapshots(5)) is None
    assert images_per_minute(snapshots(5, None)) is None
    assert images_per_minute(snapshots(None, 5)) is None
    assert images_per_minute(snapshots(10, 0)) == 0
