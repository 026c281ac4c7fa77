"""Draws pictures such as a camera on a pole takes: skies, fields, snow, smoke, night, a street.

A scene is painted small and enlarged, as a soft lens would, with a sensor's noise; lettering
is put on afterwards so that it stays sharp. The same index and seed give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT = 640, 480
_NOISE = 3.0
_CLOUD_HEIGHT = 16
_SIZES = ((1024, 768), (1280, 960), (1600, 1200), (2048, 1536))
_QUALITIES = (80, 85, 90)
_SIGNS = ("FIRE DANGER: HIGH", "BRIDGE AHEAD", "STATION 7", "NO SWIMMING")
_HORIZON = int(HEIGHT * 0.55)


Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


class Canvas:
    """An RGB picture of 640x480 pixels, painted over and over.

    Args:
        rng: The source of everything random.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._image = Image.new("RGB", (WIDTH, HEIGHT))
        self._pen = ImageDraw.Draw(self._image)

    def between(self, low: int, high: int) -> int:
        """A random integer of [low, high)."""
        return int(self._rng.integers(low, high))

    def gradient(self, top: int, bottom: int, above: Colour, below: Colour) -> None:
        """Fill the rows from ``top`` to ``bottom``, shading from one colour to another."""
        rows = np.linspace(above, below, bottom - top).astype(np.uint8)
        strip = Image.fromarray(rows[:, np.newaxis, :])
        self._image.paste(strip.resize((WIDTH, bottom - top)), (0, top))

    def ridge(self, base: int, height: int, colour: Colour) -> None:
        """A jagged skyline around row ``base``, filled down to the bottom of its foot."""
        steps = self._rng.normal(0, height / 3, 17)
        skyline = [(i * 40, int(base - abs(step))) for i, step in enumerate(steps)]
        self._pen.polygon([(0, base + height), *skyline, (WIDTH, base + height)], colour)

    def clouds(self, amount: int, colour: Colour) -> None:
        """Flat soft clouds in the upper third."""
        for _ in range(amount):
            x, y = self.between(0, WIDTH), self.between(20, HEIGHT // 3)
            for puff in range(4):
                self._soft((x + puff * 28, y), (40, _CLOUD_HEIGHT), colour)

    def glow(self, centre: tuple[int, int], radius: int, colour: Colour) -> None:
        """A round spot that fades towards its edge."""
        self._soft(centre, (radius * 2, radius * 2), colour)

    def box(self, box: Box, colour: Colour) -> None:
        """A filled rectangle: left, top, right, bottom."""
        self._pen.rectangle(box, colour)

    def building(self, box: Box, colour: Colour) -> None:
        """A house front with rows of windows."""
        left, top, right, bottom = box
        self.box(box, colour)
        for x in range(left + 8, right - 12, 18):
            for y in range(top + 10, bottom - 14, 24):
                self.box((x, y, x + 8, y + 12), (70, 84, 104))

    def developed(self, size: tuple[int, int]) -> Image.Image:
        """The picture with noise, enlarged to ``size``."""
        noise = self._rng.normal(0, _NOISE, (HEIGHT, WIDTH, 1)).astype(np.float32)
        pixels = np.asarray(self._image, np.float32) + noise
        grainy = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        return grainy.resize(size, Image.Resampling.BILINEAR)

    def _soft(self, centre: tuple[int, int], half: tuple[int, int], colour: Colour) -> None:
        width, height = half[0] * 2, half[1] * 2
        mask = Image.new("L", (width, height))
        inner = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
        ImageDraw.Draw(mask).ellipse(inner, 235)
        mask = mask.filter(ImageFilter.BoxBlur(min(width, height) / 8))
        self._image.paste(colour, (centre[0] - half[0], centre[1] - half[1]), mask)


@dataclass(frozen=True, slots=True)
class Style:
    """How a picture is drawn.

    Attributes:
        scene: A name of :data:`SCENES`.
        size: Width and height, pixels.
        lettering: Text burnt into the picture; empty for none.
    """

    scene: str
    size: tuple[int, int]
    quality: int
    lettering: str


def style_of(index: int, seed: int) -> Style:
    """The style of picture ``index``: scenes take turns, everything else is random."""
    rng = np.random.default_rng((seed, index, 0))
    letterings = ("", f"CAM {index:03d}  {rng.integers(24):02d}:{rng.integers(60):02d}", "")
    sign = (str(rng.choice(_SIGNS)),)
    return Style(
        scene=tuple(SCENES)[index % len(SCENES)],
        size=_SIZES[int(rng.integers(len(_SIZES)))],
        quality=_QUALITIES[int(rng.integers(len(_QUALITIES)))],
        lettering=str(rng.choice(letterings + sign)),
    )


def draw(index: int, seed: int) -> bytes:
    """Picture ``index`` as a JPEG file."""
    style = style_of(index, seed)
    canvas = Canvas(np.random.default_rng((seed, index, 1)))
    SCENES[style.scene](canvas)
    image = canvas.developed(style.size)
    _letter(image, style.lettering)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=style.quality)
    return file.getvalue()


def _letter(image: Image.Image, text: str) -> None:
    if not text:
        return
    font = ImageFont.load_default(image.height // 24)
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = pen.textbbox((image.width // 40, image.height // 40), text, font)
    margin = image.height // 96
    frame = (left - margin, top - margin, right + margin, bottom + margin)
    pen.rectangle(frame, fill=(24, 24, 24))
    pen.text((image.width // 40, image.height // 40), text, (240, 240, 230), font)


def _green_field(canvas: Canvas) -> None:
    canvas.gradient(0, _HORIZON, (70, 130, 220), (170, 205, 240))
    canvas.clouds(3, (245, 248, 252))
    canvas.gradient(_HORIZON, HEIGHT, (90, 160, 60), (40, 120, 30))
    canvas.ridge(_HORIZON, 14, (50, 105, 50))


def _night_lights(canvas: Canvas) -> None:
    canvas.gradient(0, HEIGHT, (4, 6, 18), (16, 16, 28))
    canvas.ridge(_HORIZON, 40, (6, 6, 10))
    for _ in range(18):
        x, y = canvas.between(0, WIDTH), canvas.between(_HORIZON, HEIGHT - 20)
        canvas.glow((x, y), canvas.between(2, 6), (255, 214, 140))


def _snow_ridge(canvas: Canvas) -> None:
    canvas.gradient(0, _HORIZON, (110, 150, 205), (195, 212, 230))
    canvas.ridge(int(HEIGHT * 0.35), 90, (128, 136, 150))
    canvas.ridge(int(HEIGHT * 0.48), 60, (236, 240, 246))
    canvas.gradient(int(HEIGHT * 0.6), HEIGHT, (242, 245, 250), (228, 234, 244))


def _smoke_plume(canvas: Canvas) -> None:
    canvas.gradient(0, _HORIZON, (140, 165, 195), (205, 205, 200))
    canvas.gradient(_HORIZON, HEIGHT, (120, 112, 70), (84, 80, 50))
    canvas.ridge(_HORIZON, 24, (70, 80, 52))
    root = canvas.between(WIDTH // 4, 3 * WIDTH // 4)
    for step in range(14):
        centre = (root + step * 14, _HORIZON - step * 17)
        grey = 92 + step * 6
        canvas.glow(centre, 12 + step * 5, (grey, grey - 4, grey - 8))
    canvas.glow((root, _HORIZON), 9, (240, 110, 30))


def _sunset(canvas: Canvas) -> None:
    canvas.gradient(0, _HORIZON, (90, 60, 110), (250, 140, 60))
    sun = (canvas.between(WIDTH // 4, 3 * WIDTH // 4), _HORIZON - 24)
    canvas.glow(sun, 30, (255, 232, 150))
    canvas.gradient(_HORIZON, HEIGHT, (72, 44, 42), (26, 18, 24))
    canvas.ridge(_HORIZON, 20, (46, 30, 40))


def _fog(canvas: Canvas) -> None:
    canvas.gradient(0, HEIGHT, (196, 200, 202), (172, 176, 178))
    for _ in range(5):
        x, top = canvas.between(0, WIDTH), canvas.between(HEIGHT // 3, _HORIZON)
        canvas.box((x, top, x + 7, HEIGHT - 80), (158, 163, 165))


def _lake_shore(canvas: Canvas) -> None:
    canvas.gradient(0, _HORIZON, (95, 150, 215), (190, 215, 235))
    canvas.gradient(_HORIZON, int(HEIGHT * 0.85), (40, 92, 140), (60, 120, 160))
    for _ in range(40):
        x, y = canvas.between(0, WIDTH), canvas.between(_HORIZON + 6, int(HEIGHT * 0.84))
        canvas.box((x, y, x + canvas.between(12, 50), y + 1), (132, 176, 204))
    canvas.gradient(int(HEIGHT * 0.85), HEIGHT, (206, 188, 142), (188, 168, 122))


def _city_street(canvas: Canvas) -> None:
    canvas.gradient(0, _HORIZON, (150, 175, 205), (205, 212, 220))
    canvas.gradient(_HORIZON, HEIGHT, (96, 96, 100), (62, 62, 66))
    left = 0
    while left < WIDTH:
        right, roof = left + canvas.between(50, 110), canvas.between(60, _HORIZON - 60)
        grey = canvas.between(95, 150)
        canvas.building((left, roof, right, int(HEIGHT * 0.66)), (grey, grey - 8, grey - 14))
        left = right + canvas.between(0, 14)
    for y in range(int(HEIGHT * 0.72), HEIGHT, 36):
        canvas.box((WIDTH // 2 - 4, y, WIDTH // 2 + 4, y + 18), (232, 226, 190))


SCENES: dict[str, Callable[[Canvas], None]] = {
    "green-field": _green_field,
    "night-lights": _night_lights,
    "snow-ridge": _snow_ridge,
    "smoke-plume": _smoke_plume,
    "sunset": _sunset,
    "fog": _fog,
    "lake-shore": _lake_shore,
    "city-street": _city_street,
}
