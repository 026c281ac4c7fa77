"""Colour, brightness and texture of a picture's thumbnail, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

ROWS, COLUMNS = 48, 64
_GREY_SATURATION = 0.16
_BLACK_VALUE = 0.15
_WHITE_VALUE = 0.8
_BROWN_VALUE = 0.6
# Where each colour's hues end, in degrees; red goes on from the last.
_HUE_ENDS = {
    "red": 12,
    "orange": 42,
    "yellow": 68,
    "green": 165,
    "cyan": 190,
    "blue": 260,
    "purple": 300,
    "pink": 345,
    "red again": 360,
}


@dataclass(frozen=True)
class Pixels:
    """A thumbnail.

    Attributes:
        rgb: Shape [ROWS, COLUMNS, 3], 0 to 1. Every map has the shape [ROWS, COLUMNS].
    """

    rgb: Map

    @classmethod
    def of(cls, image: NDArray[Any]) -> Pixels:
        """The thumbnail of ``image``, shape [H, W, 3], 0 to 255; aspect is not kept."""
        picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        small = picture.resize((COLUMNS, ROWS), Image.Resampling.BOX)
        return cls(np.asarray(small, dtype=np.float32) / 255.0)

    @cached_property
    def luminance(self) -> Map:
        """Brightness as the eye weighs it (ITU-R BT.601), 0 to 1."""
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return np.asarray(self.rgb @ weights)

    @cached_property
    def value(self) -> Map:
        """The greatest of red, green and blue."""
        return np.asarray(self.rgb.max(axis=2))

    @cached_property
    def saturation(self) -> Map:
        """Of HSV, 0 to 1."""
        chroma = self.value - self.rgb.min(axis=2)
        return np.asarray(chroma / np.maximum(self.value, np.float32(1e-6)))

    @cached_property
    def hue(self) -> Map:
        """Of HSV, in degrees; the angle of the colour in the plane across the grey axis."""
        red, green, blue = np.moveaxis(self.rgb, 2, 0)
        angle = np.arctan2(np.sqrt(3.0) * (green - blue), 2.0 * red - green - blue)
        return np.asarray(np.degrees(angle) % 360.0, dtype=np.float32)

    @cached_property
    def roughness(self) -> Map:
        """How much brightness changes to the next pixel, right and down."""
        down = np.abs(np.diff(self.luminance, axis=0, append=self.luminance[-1:]))
        right = np.abs(np.diff(self.luminance, axis=1, append=self.luminance[:, -1:]))
        return np.maximum(down, right)

    @cached_property
    def colours(self) -> dict[str, Mask]:
        """Where each colour is; every pixel has one."""
        black = self.value < _BLACK_VALUE
        grey = ~black & (self.saturation < _GREY_SATURATION)
        masks = {"black": black, "white": grey & (self.value > _WHITE_VALUE)}
        masks["grey"] = grey & ~masks["white"]
        return {**masks, **self._hues(~black & ~grey)}

    def _hues(self, coloured: Mask) -> dict[str, Mask]:
        bands = np.searchsorted(list(_HUE_ENDS.values()), self.hue, side="right")
        masks = {name: coloured & (bands == band) for band, name in enumerate(_HUE_ENDS)}
        masks["red"] |= masks.pop("red again")
        dark = self.value < _BROWN_VALUE
        masks["brown"] = dark & (masks["orange"] | masks["yellow"])
        masks["orange"] &= ~dark
        masks["yellow"] &= ~dark
        return masks
