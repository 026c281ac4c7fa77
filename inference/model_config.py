"""What the project knows of each model: its name in Triton, what it sees, what it answers."""

from __future__ import annotations

from dataclasses import dataclass

CAPTION_PROMPT = (
    "Describe this picture from an environmental sensor camera in one paragraph. Name the "
    "setting, weather, sky, light and time of day, vegetation, water, people, animals, "
    "vehicles and buildings, and anything unusual such as smoke, fire, flooding or snow. "
    "Copy any legible text. State only what can be seen."
)
CAPTION_MAX_CHARACTERS = 4000
"""Several times what the models write; bounds what an answer gone astray puts in the store."""

IMAGE_WEIGHT = 0.7
TEXT_WEIGHT = 0.3
"""Shares of the unit vectors of image and text in a fused vector."""

MAX_IMAGE_PIXELS = 896 * 896
"""No model makes use of more of an ordinary photograph (width times height)."""


@dataclass(frozen=True, slots=True)
class ImageLimit:
    """The most a model makes use of; a larger picture is reduced to it, aspect kept.

    Attributes:
        max_pixels: Width times height.
        shortest_side: In pixels; ``None`` when only the area counts.
    """

    max_pixels: int
    shortest_side: int | None = None

    @classmethod
    def of_side(cls, side: int) -> ImageLimit:
        """``side`` as the shortest; panoramas beyond 4:1 are held to the area of 4:1."""
        return cls(max_pixels=4 * side * side, shortest_side=side)


@dataclass(frozen=True, slots=True)
class VisionLanguageModel:
    """A model that answers a prompt about an image in free text."""

    name: str
    limit: ImageLimit


@dataclass(frozen=True, slots=True)
class JointEmbeddingModel:
    """A model with one space for image and text, of ``dimension`` D."""

    name: str
    limit: ImageLimit
    dimension: int


@dataclass(frozen=True, slots=True)
class TokenEmbeddingModel:
    """A model with a vector of ``dimension`` for every token of a text."""

    name: str
    dimension: int


# google/gemma-3-4b-it squashes what it is given to 896x896.
GEMMA3 = VisionLanguageModel("gemma3", ImageLimit(MAX_IMAGE_PIXELS))
# The same for Qwen2.5-VL, which would otherwise spend a token on every 28x28 pixels.
QWEN2_5_VL = VisionLanguageModel("qwen2_5_vl", ImageLimit(MAX_IMAGE_PIXELS))
# microsoft/Florence-2-base: 768x768.
FLORENCE2 = VisionLanguageModel("florence2base", ImageLimit.of_side(768))
# apple/DFN5B-CLIP-ViT-H-14-378: 378x378.
CLIP = JointEmbeddingModel("clip", ImageLimit.of_side(378), dimension=1024)
# kakaobrain/align-base: 289x289, of which the middle is cut out.
ALIGN = JointEmbeddingModel("align", ImageLimit.of_side(289), dimension=640)
# colbert-ir/colbertv2.0.
COLBERT = TokenEmbeddingModel("colbert", dimension=128)
