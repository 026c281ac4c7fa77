"""Files that are no images, or unusual ones, and messages that are no tasks."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from PIL import Image

from tests.chaos.dataset import FORBIDDEN_VSN, Published, images, picture, publish
from tests.chaos.role import DEAF, ENDLESS, FATAL, POISON
from tests.support.pictures import with_scans

FOREIGN_MESSAGES = (
    b"garbage",
    b"{}",
    b"\xff\xfe\x00",
    json.dumps({"body": "x", "headers": {"task": "os.system", "id": "1"}}).encode(),
    b'{"body": "' + b"x" * 1_000_000 + b'"}',
)


# To remote control and to events, as whoever reaches Redis can send.
_PICKLE = {
    "body": "gASVBQAAAAAAAABdlC4=",
    "content-type": "application/x-python-serialize",
    "content-encoding": "binary",
    "headers": {},
    "properties": {"delivery_tag": "x", "body_encoding": "base64", "delivery_info": {}},
}
_FALSE_HEARTBEAT = {
    **_PICKLE,
    "body": base64.b64encode(
        json.dumps(
            {"type": "worker-heartbeat", "hostname": "x@x", "active": "abc", "clock": "abc"}
        ).encode()
    ).decode(),
    "content-type": "application/json",
    "content-encoding": "utf-8",
}
HOSTILE_BROADCASTS = tuple(
    (channel, json.dumps(rubbish))
    for channel in ("/0.celery.pidbox", "/0.celeryev/worker.heartbeat")
    for rubbish in (_PICKLE, _FALSE_HEARTBEAT, {}, "words", 5)
)


def hostile_message(queue: str) -> str:
    """A task of ours with a word for its time limits, with which Celery's main process reckons."""
    headers = {
        "id": f"hostile-{queue}",
        "task": "job_system.tasks.process_dlq_message",
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": "b",
        "root_id": "x",
        "parent_id": None,
        "lang": "py",
    }
    route = {"exchange": "", "routing_key": queue}
    return json.dumps(
        {
            "body": base64.b64encode(b'[["x"], {}, {}]').decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {
                "delivery_tag": f"hostile-{queue}",
                "delivery_info": route,
                "delivery_mode": 2,
                "body_encoding": "base64",
                "correlation_id": "x",
                "reply_to": "",
                "priority": 0,
            },
        }
    )


def late(seconds: float) -> Callable[[str, str, int], Sequence[Published]]:
    """Captured so many seconds ago, and listed now."""

    def published(host: str, name: str, seed: int) -> Sequence[Published]:
        return [
            publish(host, f"{name}-{n}.jpg", partial(picture, n), at_second=seconds + n)
            for n in range(20)
        ]

    return published


def poison(host: str, name: str, seed: int) -> Sequence[Published]:
    """One that kills whatever decodes it, among good ones."""
    deadly = publish(host, f"{name}-deadly.jpg", lambda: POISON, dies=True)
    return [*images(host, name, 30, seed), deadly]


def hanging(host: str, name: str, seed: int) -> Sequence[Published]:
    """Two that are never done, one of them deaf to signals, among good ones."""
    endless = publish(host, f"{name}-endless.jpg", lambda: ENDLESS, dies=True)
    deaf = publish(host, f"{name}-deaf.jpg", lambda: DEAF, dies=True)
    return [*images(host, name, 30, seed), endless, deaf]


def fatal(host: str, name: str, seed: int) -> Sequence[Published]:
    """One whose message ends the worker that receives it, and good ones that come after it."""
    deadly = publish(host, f"{name}-{FATAL}.jpg", partial(picture, 0), dies=True)
    return [deadly, *images(host, name, 20, seed)]


def forbidden(host: str, name: str, seed: int) -> Sequence[Published]:
    """Twenty of a node that the account may not read, among good ones."""
    refused = [
        publish(host, f"{name}-no-{number}.jpg", bytes, dies=True, vsn=FORBIDDEN_VSN)
        for number in range(20)
    ]
    good = images(host, name, 20, seed)
    return [image for pair in zip(refused, good, strict=True) for image in pair]


def exhausting(host: str, name: str, seed: int) -> Sequence[Published]:
    """Small files that are large once decoded, or take long, among good ones."""
    files = {
        "grey.png": partial(_empty_png, 9_995, 8, 0),
        "sixteen-bit.png": partial(_empty_png, 9_995, 16, 0),
        "transparent.png": partial(_empty_png, 12_000, 8, 6),
        "scans.jpg": partial(with_scans, (1600, 1200), 400),
    }
    bad = [publish(host, f"{name}-{file}", data, dies=True) for file, data in files.items()]
    return [*bad, *images(host, name, 30, seed)]


def broken(host: str, name: str, seed: int) -> Sequence[Published]:
    """One of each kind."""
    jpeg = picture(seed)
    dead = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        "huge.jpg": jpeg + bytes(50_000_000),
        "bomb.png": _bomb(),
    }
    good = {
        "wrong-extension.gif": jpeg,
        "cmyk.jpg": _saved(_pattern().convert("CMYK"), "JPEG"),
        "sixteen-bit.png": _saved(Image.fromarray(_sixteen_bits()), "PNG"),
        "animated.gif": _animated(),
        "one-pixel.png": _saved(Image.new("RGB", (1, 1), "green"), "PNG"),
        "transparent.png": _saved(_pattern().convert("RGBA"), "PNG"),
    }
    return [
        publish(host, f"{name}-{file}", partial(bytes, data), dies=file in dead)
        for file, data in {**dead, **good}.items()
    ]


def _pattern() -> Image.Image:
    values = np.arange(48 * 64 * 3, dtype=np.uint32).astype(np.uint8)
    return Image.fromarray(values.reshape(48, 64, 3))


def _sixteen_bits() -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    return np.linspace(0, 65_535, 48 * 64).astype(np.uint16).reshape(48, 64)


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


@cache
def _empty_png(side: int, bits: int, colour: int) -> bytes:
    """A black PNG of so many pixels a side: some thousandth of what its pixels take."""
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    channels = {0: 1, 6: 4}[colour]
    row, packer = bytes(1 + side * channels * bits // 8), zlib.compressobj(1)
    packed = b"".join((*(packer.compress(row) for _ in range(side)), packer.flush()))
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
