"""Features of a picture that preview models use, in terms of their vocabulary.

How much of each concept there is, and where; and the words for the concepts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

CONCEPT_WORDS = {
    "night": "night nighttime dark darkness midnight evening dusk unlit",
    "day": "day daytime daylight bright sunny sunlit sunshine morning noon",
    "lights": "light lamp headlight streetlight lantern star moon",
    "sky": "sky clear heaven",
    "cloud": "cloud cloudy overcast",
    "fog": "fog foggy haze hazy mist misty murky",
    "smoke": "smoke smoky smoking plume wildfire smog ash",
    "fire": "fire flame burning blaze wildfire",
    "sunset": "sunset sunrise dawn dusk twilight",
    "snow": "snow snowy snowfall snowstorm snowcovered blizzard winter ice icy frost frosty",
    "vegetation": "vegetation plant tree forest leaf foliage shrub bush wood grass lush",
    "field": "field grass grassland grassy meadow lawn pasture prairie crop farm",
    "water": "water lake river sea ocean pond flood flooding flooded stream",
    "earth": "earth soil dirt dry sand sandy desert mud rock rocky ground",
    "building": "building house city town urban street road wall window bridge tower",
    "red": "red crimson scarlet",
    "orange": "orange amber",
    "yellow": "yellow golden gold",
    "green": "green greenery grassy lush",
    "cyan": "cyan turquoise teal",
    "blue": "blue azure navy",
    "purple": "purple violet",
    "pink": "pink magenta",
    "brown": "brown tan",
    "white": "white",
    "grey": "grey gray silver",
    "black": "black",
}
"""Words by concept; one word may name several."""

COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "brown",
    "white",
    "grey",
    "black",
)

# Distinctive concepts weigh more than colours and daylight, which all pictures have.
_SALIENT = dict.fromkeys(("smoke", "fire", "fog", "snow", "sunset"), 1.5)
_COMMON = {**dict.fromkeys(COLOURS, 0.5), "day": 0.4, "sky": 0.6, "cloud": 0.7, "lights": 0.7}
WEIGHTS = {**dict.fromkeys(CONCEPT_WORDS, 1.0), **_COMMON, **_SALIENT}
_STOP_WORDS = frozenset(
    "a above an and as at be below by caption crosses everything from height horizon image in is "
    "it like may mostly of on or over perhaps photo picture preview shows some the there this "
    "through to with".split()
)
_WORD = re.compile(r"[^\W_]+")

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
_TOP = np.arange(ROWS)[:, None] < ROWS * 0.5
_BOTTOM = ~_TOP
# Changes of brightness from pixel to pixel: below, a surface; above, the rim of a lamp.
_SMOOTH, _EDGE = 0.06, 0.1
# Differences of colour, summed over red, green and blue: from the sky, and across a horizon.
_APART, _STEP = 0.1, 0.15
_LAYOUT = (4, 4)


@dataclass(frozen=True)
class PictureFeatures:
    """A picture in terms of the vocabulary.

    Attributes:
        scores: By concept, 0 (not there) to 1 (plain to see).
        masks: Where a concept is, for those that have a location.
        horizon: Height of the strongest line across, 0 (top) to 1; ``None`` without one.
        layout: Colours on a coarse grid, shape [n], -0.5 to 0.5.
    """

    scores: dict[str, float]
    masks: dict[str, Mask]
    horizon: float | None
    layout: Map


def extract(image: NDArray[Any]) -> PictureFeatures:
    """The features of ``image``, shape [H, W, 3], 0 to 255."""
    pixels = Pixels.of(image)
    masks = {**_masks(pixels), **pixels.colours}
    return PictureFeatures(
        scores=_weighed({**_whole_picture(pixels), **_by_area(masks)}),
        masks=masks,
        horizon=_horizon(pixels),
        layout=_layout(pixels),
    )


def _ramp(amount: float | np.floating[Any], low: float, high: float) -> float:
    """0 at ``low``, 1 at ``high``, straight between; ``low`` may be the greater."""
    return float(np.clip((float(amount) - low) / (high - low), 0.0, 1.0))


def _masks(pixels: Pixels) -> dict[str, Mask]:
    light, colours = pixels.luminance, pixels.colours
    pale = pixels.saturation < 0.2
    warm = colours["orange"] | colours["pink"] | colours["red"] | colours["yellow"]
    blue = colours["blue"] | colours["cyan"]
    glowing = (pixels.saturation > 0.7) & (pixels.value > 0.85)
    return {
        "sky": _TOP & blue & (light > 0.35),
        "cloud": _TOP & pale & (light > 0.6),
        "sunset": _TOP & warm,
        "snow": _BOTTOM & pale & (light > 0.78),
        "vegetation": colours["green"],
        "field": _BOTTOM & colours["green"],
        "water": _BOTTOM & blue,
        "earth": _BOTTOM & (colours["brown"] | colours["orange"]),
        "fire": _BOTTOM & glowing & (colours["orange"] | colours["red"]),
        "smoke": _plume(pixels) & pale,
        "building": pale & (pixels.roughness > _SMOOTH),
        "lights": (light > 0.25) & (pixels.roughness > _EDGE),
    }


def _plume(pixels: Pixels) -> Mask:
    """What is grey and calm in a sky of another colour; clouds are lighter."""
    grey = (pixels.luminance > 0.25) & (pixels.luminance < 0.68)
    sky = np.median(pixels.rgb, axis=1, keepdims=True)
    apart = np.abs(pixels.rgb - sky).sum(axis=2) > _APART
    around = sliding_window_view(np.pad(pixels.roughness, 1, mode="edge"), (3, 3))
    return np.asarray(_TOP & grey & apart & (around.max(axis=(2, 3)) < _SMOOTH))


def _by_area(masks: dict[str, Mask]) -> dict[str, float]:
    spans = {
        "sky": (0.05, 0.3),
        "cloud": (0.05, 0.3),
        "sunset": (0.05, 0.25),
        "snow": (0.08, 0.35),
        "vegetation": (0.05, 0.4),
        "field": (0.1, 0.4),
        "water": (0.1, 0.35),
        "earth": (0.1, 0.4),
        "fire": (0.004, 0.03),
        "smoke": (0.01, 0.05),
        "building": (0.05, 0.15),
        "lights": (0.0005, 0.003),
        **dict.fromkeys(COLOURS, (0.03, 0.4)),
    }
    return {name: _ramp(masks[name].mean(), *span) for name, span in spans.items()}


def _weighed(scores: dict[str, float]) -> dict[str, float]:
    """``scores``, less what another concept explains."""
    by_day = 1.0 - scores["night"]
    return {
        **scores,
        "building": scores["building"] * by_day,
        "smoke": scores["smoke"] * by_day * (1.0 - scores["building"]),
        "lights": scores["lights"] * scores["night"],
        "fire": scores["fire"] * (1.0 - scores["sunset"]),
    }


def _whole_picture(pixels: Pixels) -> dict[str, float]:
    typical, mean = np.median(pixels.luminance), pixels.luminance.mean()
    flat = _ramp(pixels.luminance.std(), 0.12, 0.05)
    washed_out = _ramp(pixels.saturation.mean(), 0.25, 0.1)
    return {
        "night": _ramp(typical, 0.3, 0.12),
        "day": _ramp(typical, 0.25, 0.45),
        "fog": flat * washed_out * _ramp(mean, 0.3, 0.45) * _ramp(mean, 0.92, 0.86),
    }


def _horizon(pixels: Pixels) -> float | None:
    steps = np.abs(np.diff(pixels.rgb.mean(axis=1), axis=0)).sum(axis=1)
    steps[: ROWS // 6] = steps[-ROWS // 6 :] = 0.0  # lettering is burnt in near the edges
    strongest = int(steps.argmax())
    return (strongest + 1) / ROWS if steps[strongest] > _STEP else None


def _layout(pixels: Pixels) -> Map:
    rows, columns = _LAYOUT
    cells = pixels.rgb.reshape(rows, ROWS // rows, columns, COLUMNS // columns, 3)
    return np.asarray(cells.mean(axis=(1, 3)).ravel() - np.float32(0.5))


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


def words_of(text: str) -> list[str]:
    """The words of ``text`` in lower case, without those that say nothing about a picture."""
    return [word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


@lru_cache(maxsize=4096)
def concepts_of(word: str) -> tuple[str, ...]:
    """The concepts that ``word``, singular or plural, names; empty when it is not known."""
    forms = _singulars(word)
    return tuple(c for c, words in CONCEPT_WORDS.items() if not forms.isdisjoint(words.split()))


def _singulars(word: str) -> set[str]:
    forms = {word, word.removesuffix("s"), word.removesuffix("es")}
    if word.endswith("ves"):
        forms.add(word[:-3] + "f")
    return forms
