"""Captions of preview models: plain statements about colour, brightness and texture."""

from __future__ import annotations

from .picture_features import Scene
from .vocabulary import COLOURS

PREFIX = "Preview caption:"

# A concept, how sure to be before it is named, and its words; what stands out comes first.
_STATEMENTS = (
    ("fire", 0.5, "bright flames or a fire"),
    ("smoke", 0.4, "a grey plume like smoke"),
    ("fog", 0.4, "fog or haze over everything"),
    ("snow", 0.4, "white snow on the ground"),
    ("sunset", 0.4, "a warm sky like a sunset"),
    ("lights", 0.4, "points of light in the dark"),
    ("sky", 0.3, "blue sky"),
    ("cloud", 0.5, "pale clouds"),
    ("field", 0.4, "a green field or lawn"),
    ("vegetation", 0.3, "green vegetation"),
    ("water", 0.4, "blue water perhaps"),
    ("earth", 0.4, "bare brown earth"),
    ("building", 0.5, "grey shapes with sharp edges such as buildings"),
)


def describe(scene: Scene) -> str:
    """A caption of ``scene``; it begins with :data:`PREFIX`."""
    sentences = [_first(scene), _seen(scene), _horizon(scene)]
    return f"{PREFIX} {' '.join(filter(None, sentences))}"


def labels(scene: Scene) -> dict[str, str]:
    """What is worth naming in ``scene``: words by concept, what stands out first."""
    return {name: words for name, sure, words in _STATEMENTS if scene.scores[name] >= sure}


def _first(scene: Scene) -> str:
    shares = {name: float(scene.places[name].mean()) for name in COLOURS}
    first, second = sorted(shares, key=lambda name: -shares[name])[:2]
    colours = first if shares[second] < 0.1 else f"{first} and {second}"
    return f"a {_light(scene)} picture, mostly {colours}."


def _light(scene: Scene) -> str:
    if scene.scores["night"] > 0.5:
        return "dark night"
    return "bright day" if scene.scores["day"] > 0.5 else "dim"


def _seen(scene: Scene) -> str:
    named = list(labels(scene).values())
    return f"It shows {'; '.join(named)}." if named else ""


def _horizon(scene: Scene) -> str:
    if scene.horizon is None:
        return ""
    return f"A horizon crosses at {round(scene.horizon * 100)} % of the height."
