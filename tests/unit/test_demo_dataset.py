"""The demo's dataset: pictures that decode, records as SAGE writes them, expected that add up."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from demo import pictures
from demo.cases import CASES, DEAD_LETTER, REJECTED, ROUND, STORED
from demo.dataset import LONG_DELAY, Dataset, PlannedImage
from demo.sage_replay.catalogue import SECOND
from weavloader.images.job import UNKNOWN, ImageJob
from weavloader.stream.sage_api import RejectedRecord, parse_record

BEGAN = 1_795_500_000 * SECOND
DATASET = Dataset("127.0.0.1:1", "127.0.0.1:2", BEGAN, images=len(ROUND), publish_seconds=10)


def of_kind(kind: str) -> list[PlannedImage]:
    """The images of one kind."""
    return [image for image in DATASET.images_in_order() if image.kind == kind]


def test_every_kind_appears_in_a_round() -> None:
    assert set(ROUND) | {"your picture"} == set(CASES)


@pytest.mark.parametrize("index", range(len(pictures.SCENES)))
def test_each_scene_is_a_jpeg_of_the_size_its_look_says(index: int) -> None:
    image = Image.open(io.BytesIO(pictures.draw(index, 7)))
    assert image.format == "JPEG" and image.size == pictures.style_of(index, 7).size
    image.load()


def test_pictures_are_the_same_each_time_and_no_two_alike() -> None:
    scenes = len(pictures.SCENES)
    assert pictures.draw(3, 7) == pictures.draw(3, 7)
    assert len({pictures.draw(index, 7) for index in (0, scenes, 2 * scenes)}) == 3


def test_some_pictures_have_lettering_and_some_have_none() -> None:
    letterings = {bool(pictures.style_of(index, 7).lettering) for index in range(40)}
    assert letterings == {True, False}


def test_the_same_arguments_give_the_same_world() -> None:
    first, second = ([(i.name, i.record) for i in DATASET.images_in_order()] for _ in range(2))
    assert first == second


def test_good_records_are_read_with_every_field() -> None:
    for image in of_kind("good"):
        job = ImageJob.from_record(image.record)
        assert UNKNOWN not in job.to_message().values()
        assert job.url == image.link


def test_refused_records_are_refused_for_the_expected_reason() -> None:
    refused = [
        image for image in DATASET.images_in_order() if image.expected and image.expected.reason
    ]
    refused = [image for image in refused if image.expected and image.expected.status == REJECTED]
    assert len(refused) == 5
    for image in refused:
        rejected = parse_record(image.record)
        assert isinstance(rejected, RejectedRecord) and image.expected is not None
        assert rejected.reason == image.expected.reason


def test_same_second_images_are_of_one_node_and_one_second() -> None:
    one, other = (ImageJob.from_record(image.record) for image in of_kind("same second"))
    assert one.node == other.node
    assert one.timestamp[:19] == other.timestamp[:19] and one.timestamp != other.timestamp


def test_same_instant_images_are_of_two_nodes_at_one_nanosecond() -> None:
    one, other = (ImageJob.from_record(image.record) for image in of_kind("same instant"))
    assert one.node != other.node and one.timestamp == other.timestamp


def test_very_late_images_are_out_of_a_ticks_reach_and_in_a_health_checks() -> None:
    ages = [(BEGAN - image.entries[0].at) / SECOND for image in of_kind("very late")]
    assert ages and all(900 < age < 23 * 3600 for age in ages)


def test_an_image_listed_twice_has_one_record_and_appears_twice() -> None:
    (image,) = of_kind("listed twice")
    first, second = image.entries
    assert first.record == second.record and first.publish_after < second.publish_after <= 10


def test_broken_files_do_not_decode() -> None:
    for kind in ("truncated", "error page", "empty"):
        (image,) = of_kind(kind)
        assert image.file is not None
        with pytest.raises((OSError, UnidentifiedImageError)):
            Image.open(io.BytesIO(image.file.content())).load()


def test_links_of_the_catalogue_lead_to_its_files() -> None:
    catalogue = DATASET.catalogue()
    (foreign,) = of_kind("foreign host")
    assert foreign.link == f"http://127.0.0.1:2/{foreign.path}"
    assert foreign.path in catalogue.foreign_objects and foreign.path not in catalogue.objects
    (gone,) = of_kind("no such file")
    assert gone.path not in catalogue.objects
    for image in of_kind("good"):
        assert image.link == f"http://127.0.0.1:1/api/v1/data/{image.path}"
        assert image.path in catalogue.objects


def test_everything_is_published_by_the_end_and_some_at_once_at_most() -> None:
    after = [entry.publish_after for image in DATASET.images_in_order() for entry in image.entries]
    assert max(after) <= 10 and min(after) > 0


def test_pictures_of_the_user_are_published_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "mine.PNG").write_bytes(b"as it is")
    (tmp_path / "notes.txt").write_text("no picture")
    dataset = Dataset("127.0.0.1:1", "127.0.0.1:2", BEGAN, 2, 1.0, tmp_path)
    *drawn, mine = dataset.images_in_order()
    assert len(drawn) == 2 and mine.name == "mine.PNG" and mine.expected is None
    assert mine.file is not None and mine.file.content() == b"as it is"


def test_most_images_of_a_small_demo_are_stored() -> None:
    expected = Counter(
        image.expected.status for image in DATASET.images_in_order() if image.expected
    )
    assert expected[STORED] == 26 and expected[DEAD_LETTER] == 7


def test_files_come_after_their_records_by_seconds_and_in_long_runs_by_a_minute() -> None:
    def delays(dataset: Dataset, kind: str | None = None) -> list[float]:
        return [
            image.file.arrives_after - image.entries[0].publish_after
            for image in dataset.images_in_order()
            if image.file is not None and kind in (None, image.kind)
        ]

    assert {round(delay) for delay in delays(DATASET)} == {0, 1, 3, 8}
    assert {round(delay) for delay in delays(DATASET, "late file")} == {8}
    long = replace(DATASET, images=2 * len(ROUND))
    assert {round(delay) for delay in delays(long, "late file")} == {8, round(LONG_DELAY)}
    assert set(delays(replace(DATASET, publish_seconds=0.0))) == {0.0}, "all there at once"


def test_the_node_whose_files_are_forbidden_is_known_to_storage() -> None:
    nodes = {image.path.split("/")[2] for image in of_kind("forbidden node")}
    assert nodes == set(DATASET.catalogue().forbidden_nodes)
