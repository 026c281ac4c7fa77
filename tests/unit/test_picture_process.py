"""Pictures of the pages are made in a child, which may fail without them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event

import pytest
from PIL import Image

from demo.servers.waiting import wait_until
from tests.support.pages import SNOW, an_image, keep, served
from tests.support.pictures import LARGE, file_of, scene, with_scans
from weavloader.errors import PermanentError, TransientError
from weavloader.settings import Settings, load_settings
from web.image_service import ImageService
from web.picture_process import PictureProcess

ROOT = Path(__file__).parents[2]
SMALL = file_of(scene())


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A file that takes some seconds to decode."""
    return with_scans(LARGE, 80)


@pytest.fixture
def maker() -> Iterator[PictureProcess]:
    """A child with the limits of a deployment."""
    settings = Settings()
    with closing(PictureProcess(settings.max_image_pixels, settings.max_decode_bytes)) as made:
        yield made


@pytest.fixture
def under_way(maker: PictureProcess, monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set once a child is there for a request."""
    started, real = Event(), maker._started

    def noted() -> Connection:
        connection = real()
        started.set()
        return connection

    monkeypatch.setattr(maker, "_started", noted)
    return started


def child(maker: PictureProcess) -> int:
    """The process id of the child."""
    assert maker._process is not None
    assert maker._process.pid is not None
    return maker._process.pid


def test_a_picture_comes_back_as_a_small_jpeg_of_one_child(maker: PictureProcess) -> None:
    jpeg = maker.as_jpeg(SMALL, 80)
    first = child(maker)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.size) == ("JPEG", (80, 60))
    maker.as_jpeg(SMALL, 40)
    assert child(maker) == first


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>", "not_an_image"),
        (b"%!PS-Adobe", "unsupported_format"),
        (with_scans((64, 64), 200), "too_many_scans"),
    ],
)
def test_the_reason_of_a_refusal_comes_back(
    maker: PictureProcess, data: bytes, reason: str
) -> None:
    with pytest.raises(PermanentError) as refused:
        maker.as_jpeg(data, 80)
    assert refused.value.reason == reason
    assert maker.as_jpeg(SMALL, 80)


def test_a_picture_that_takes_too_long_is_refused_and_the_next_is_made(
    maker: PictureProcess, slow: bytes
) -> None:
    maker.as_jpeg(SMALL, 80)
    maker._timeout = 0.2
    with pytest.raises(PermanentError) as refused:
        maker.as_jpeg(slow, 80)
    assert refused.value.reason == "decode_timeout"
    maker._timeout = 30
    assert maker.as_jpeg(SMALL, 80)


def test_a_picture_that_ends_the_child_is_refused_and_the_next_is_made(
    maker: PictureProcess, slow: bytes, under_way: Event
) -> None:
    maker.as_jpeg(SMALL, 80)
    under_way.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(maker.as_jpeg, slow, 80)
        assert under_way.wait(30)
        os.kill(child(maker), signal.SIGKILL)
        with pytest.raises(PermanentError) as refused:
            answer.result(30)
    assert refused.value.reason == "kills_its_process"
    assert maker.as_jpeg(SMALL, 80)


def test_a_child_that_was_killed_while_idle_is_replaced(maker: PictureProcess) -> None:
    maker.as_jpeg(SMALL, 80)
    before = child(maker)
    os.kill(before, signal.SIGKILL)
    assert maker._process is not None
    maker._process.join(10)
    assert maker.as_jpeg(SMALL, 80)
    assert child(maker) != before


def test_closing_waits_for_no_picture(maker: PictureProcess, slow: bytes, under_way: Event) -> None:
    maker.as_jpeg(SMALL, 80)
    under_way.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(maker.as_jpeg, slow, 80)
        assert under_way.wait(30)
        start = time.monotonic()
        maker.close()
        assert time.monotonic() - start < 1
        with pytest.raises(TransientError):
            answer.result(30)
    with pytest.raises(TransientError):
        maker.as_jpeg(SMALL, 80)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory so")
def test_the_memory_of_the_child_is_limited() -> None:
    code = "from web import picture_process as p; p._limit_memory(50 << 20); bytearray({} << 20)"
    for size, ends in ((20, 0), (200, 1)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(size)], cwd=ROOT, capture_output=True, timeout=60
        )
        assert done.returncode == ends, done.stderr
        assert (b"MemoryError" in done.stderr) == bool(ends)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "store"))


def test_pictures_that_take_long_delay_no_search(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, asked = Event(), []

    def endless(self: PictureProcess, data: bytes, side: int) -> bytes:
        asked.append(side)
        going_on.wait(60)
        return b"jpeg"

    monkeypatch.setattr(PictureProcess, "as_jpeg", endless)
    images = [an_image(f"hill {number}", "a hill", SNOW) for number in range(12)]
    keep(settings, images)
    with served(settings) as client, ThreadPoolExecutor(12) as pool:
        try:
            paths = [f"/thumbnail/{image.id}.jpg" for image in images]
            answers = [pool.submit(client.get, path, timeout=60) for path in paths]
            wait_until(lambda: len(asked) >= 4, "pictures under way")
            found = client.get("/api/search", params={"q": "hill", "alpha": "0"}, timeout=20)
            assert found.status_code == 200
            assert not any(answer.done() for answer in answers)
        finally:
            going_on.set()
        assert {answer.result(30).status_code for answer in answers} == {200}


def test_what_could_not_be_decoded_is_not_tried_for_each_visitor(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = an_image("broken", "a hill", SNOW)
    object.__setattr__(broken, "image", b"<html>")
    keep(settings, [broken])
    asked = []
    real = PictureProcess.as_jpeg

    def counted(self: PictureProcess, data: bytes, side: int) -> bytes:
        asked.append(side)
        return real(self, data, side)

    monkeypatch.setattr(PictureProcess, "as_jpeg", counted)
    with closing(ImageService(settings)) as service:
        for make in (service.thumbnail, service.picture, service.thumbnail):
            with pytest.raises(PermanentError) as refused:
                make(broken.id)
            assert refused.value.reason == "not_an_image"
    assert len(asked) == 1
