"""Pictures drawn for tests: one of each thing that a preview model should tell apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Picture = NDArray[np.uint8]
WIDTH, HEIGHT = 1600, 1200


def green_field() -> Picture:
    """Blue sky over grass."""
    return _finished(_land(sky=(120, 170, 230), ground=(70, 140, 50)))


def snow() -> Picture:
    """A white slope under a pale sky with a dark ridge between."""
    picture = _land(sky=(170, 190, 215), ground=(238, 240, 244))
    ridge = [(0, 620), (400, 430), (900, 560), (1300, 400), (1600, 600), (1600, 640), (0, 640)]
    ImageDraw.Draw(picture).polygon(ridge, fill=(90, 95, 110))
    return _finished(picture)


def night() -> Picture:
    """Black land under a nearly black sky, with a few lamps."""
    picture = _land(sky=(12, 14, 26), ground=(8, 8, 8))
    for x in (300, 700, 1250):
        ImageDraw.Draw(picture).ellipse((x, 640, x + 40, 680), fill=(255, 240, 190))
    return _finished(picture)


def smoke() -> Picture:
    """Wooded land under a blue sky, with a grey plume rising from it."""
    picture = _land(sky=(115, 165, 225), ground=(60, 95, 45))
    plume = [(760, 700), (700, 400), (520, 60), (980, 40), (900, 400), (820, 700)]
    ImageDraw.Draw(picture).polygon(plume, fill=(128, 126, 124))
    return _finished(picture.filter(ImageFilter.GaussianBlur(12)))


def fog() -> Picture:
    """Hardly a difference between land and sky."""
    return _finished(_land(sky=(178, 180, 182), ground=(150, 153, 152)))


PICTURES = {"green field": green_field, "snow": snow, "night": night, "smoke": smoke, "fog": fog}


def _land(sky: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), sky)
    ImageDraw.Draw(picture).rectangle((0, HEIGHT * 0.52, WIDTH, HEIGHT), fill=ground)
    return picture


def _finished(picture: Image.Image) -> Picture:
    """With the grain of a camera, the same every time."""
    grain = np.random.default_rng(7).normal(0.0, 4.0, (HEIGHT, WIDTH, 1))
    return np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
