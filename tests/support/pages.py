"""The pages, served by a thread over stores and servers that tests give them."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from threading import Event, Thread

import httpx
import numpy as np
from PIL import Image

from metrics.http import BoundedServer
from weavloader.geo import Location
from weavloader.settings import Settings
from weavloader.store import connect_store
from weavloader.store.base import TEXT_PROPERTIES, ImageObject, Vector
from web.image_service import ImageService
from web.server import application
from web.snapshot import Monitor

NOW = datetime.now(UTC)
SNOW, STREET = np.eye(4, dtype=np.float32)[:2]
HOSTILE = '<script>alert("x")</script> & co'


def png(width: int = 640, height: int = 480) -> bytes:
    """A green picture, as a PNG file."""
    output = io.BytesIO()
    Image.new("RGB", (width, height), (20, 120, 60)).save(output, "PNG")
    return output.getvalue()


def an_image(
    name: str,
    caption: str,
    vector: Vector,
    *,
    minutes_ago: float = 60,
    location: Location | None = None,
    **changes: str,
) -> ImageObject:
    """An image to store; text properties may be given by name."""
    text = dict.fromkeys(TEXT_PROPERTIES, "unknown")
    text |= {"link": f"https://storage.example/{name}.png", "caption": caption, "vsn": "W021"}
    text |= {"timestamp": NOW.strftime("%y-%m-%d %H:%M Z"), "camera": "top", **changes}
    captured_at = NOW - timedelta(minutes=minutes_ago)
    return ImageObject(text, captured_at, png(), {"clip": vector}, location)


def keep(settings: Settings, images: Sequence[ImageObject]) -> None:
    """Store images, as a processor would."""
    with closing(connect_store(settings)) as store:
        store.prepare()
        store.upsert(images)


@contextmanager
def served(
    settings: Settings, monitor: Monitor | None = None, host: str = "127.0.0.1"
) -> Iterator[httpx.Client]:
    """A client of the pages, which a thread serves.

    Args:
        monitor: One that runs; by default one without a snapshot.
        host: What the client calls the server.
    """
    port: list[int] = []
    ready, loop_of = Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        images = ImageService(settings)
        shown = monitor or Monitor(settings, images)
        with closing(images), application(settings, images, shown) as app:
            server = BoundedServer(app)
            server.listen(0, "127.0.0.1")
            port.extend(sock.getsockname()[1] for sock in server._sockets.values())
            stop = asyncio.Event()
            loop_of.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()
            server.stop()
            await server.close_all_connections()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    headers = {"Host": f"{host}:{port[0]}"}
    try:
        base_url = f"http://127.0.0.1:{port[0]}"
        with httpx.Client(base_url=base_url, headers=headers, timeout=90) as client:
            yield client
    finally:
        loop, stop = loop_of[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def shown(page: str) -> list[str]:
    """Ids of the images on a page, in order."""
    return re.findall(r'class="view" href="/image/([^"?]+)', page)


def link(page: str, pattern: str) -> str:
    """The address that ``pattern`` finds on a page."""
    found = re.search(pattern, page)
    assert found, pattern
    return unescape(found[1])
