"""The concepts of the preview models, and the words for them."""

from __future__ import annotations

import re
from functools import lru_cache

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
