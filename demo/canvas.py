"""A small canvas with the few strokes that the demo's pictures are made of."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 480
_NOISE = 3.0
_CLOUD_HEIGHT = 16

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


class Canvas:
    """An RGB picture of 640x480 pixels, painted over and over.

    Args:
        lots: Decides everything left to chance.
    """

    def __init__(self, lots: np.random.Generator) -> None:
        self._lots = lots
        self._image = Image.new("RGB", (WIDTH, HEIGHT))
        self._pen = ImageDraw.Draw(self._image)

    def between(self, low: int, high: int) -> int:
        """A whole number of [low, high), by lot."""
        return int(self._lots.integers(low, high))

    def gradient(self, top: int, bottom: int, above: Colour, below: Colour) -> None:
        """Fill the rows from ``top`` to ``bottom``, shading from one colour to another."""
        rows = np.linspace(above, below, bottom - top).astype(np.uint8)
        strip = Image.fromarray(rows[:, np.newaxis, :])
        self._image.paste(strip.resize((WIDTH, bottom - top)), (0, top))

    def ridge(self, base: int, height: int, colour: Colour) -> None:
        """A jagged skyline around row ``base``, filled down to the bottom of its foot."""
        steps = self._lots.normal(0, height / 3, 17)
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
        noise = self._lots.normal(0, _NOISE, (HEIGHT, WIDTH, 1)).astype(np.float32)
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
