"""Hyperparameters: prompts, sizes of images and vectors, use of answers.

Each is set by the environment variable of its name in capitals, for a site whose Triton serves
other weights; ``docs/configuration.md`` lists them for users and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

from pydantic import Field

from weavloader.settings import Environment, read_environment

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class ImageLimit:
    """The largest image that a model uses; larger ones are reduced to it, with their aspect ratio.

    Attributes:
        max_pixels: Width times height.
        shortest_side: In pixels; ``None`` when only the area counts.
    """

    max_pixels: int
    shortest_side: int | None = None

    @classmethod
    def of_side(cls, side: int) -> ImageLimit:
        """``side`` as the shortest; panoramas beyond 4:1 are limited to the area of 4:1."""
        return cls(max_pixels=4 * side * side, shortest_side=side)


class ModelConfig(Environment):
    """The hyperparameters of all models.

    Attributes:
        caption_prompt: Prompt of gemma3, qwen2_5_vl and openai.
        caption_max_characters: Longer captions are truncated. Several times what the models
            write; limits runaway answers.
        fusion_image_weight: Share of the image's unit vector in a fused vector, the text's is
            the rest.
        gemma3_max_pixels: Width times height; it squashes what it is given to 896x896.
        qwen2_5_vl_max_pixels: The same; it spends a token on every 28x28 pixels.
        openai_max_pixels: The same, of the model that ``OPENAI_MODEL`` names.
        openai_max_new_tokens: Maximum length of its answers, in tokens; as of the served gemma3.
        florence2_image_side: Shortest side in pixels; it squashes to 768x768.
        clip_image_side: As above, 378x378.
        clip_dimension: Length of its vectors.
        align_image_side: 289x289, of which the middle is cut out.
        align_dimension: Length of its vectors.
        colbert_dimension: Length of a token's vector.
    """

    caption_prompt: str = (
        "Describe this picture from an environmental sensor camera in one paragraph. Name the "
        "setting, weather, sky, light and time of day, vegetation, water, people, animals, "
        "vehicles and buildings, and anything unusual such as smoke, fire, flooding or snow. "
        "Copy any legible text. State only what can be seen."
    )
    caption_max_characters: Positive = 4000
    fusion_image_weight: float = Field(default=0.7, gt=0, lt=1)
    gemma3_max_pixels: Positive = 896 * 896
    qwen2_5_vl_max_pixels: Positive = 896 * 896
    openai_max_pixels: Positive = 896 * 896
    openai_max_new_tokens: Positive = 512
    florence2_image_side: Positive = 768
    clip_image_side: Positive = 378
    clip_dimension: Positive = 1024
    align_image_side: Positive = 289
    align_dimension: Positive = 640
    colbert_dimension: Positive = 128

    @property
    def wanted_pixels(self) -> int:
        """Pixels of a 4:3 photograph that the most demanding model uses, width times height."""
        side = max(self.florence2_image_side, self.clip_image_side, self.align_image_side)
        answering = (self.gemma3_max_pixels, self.qwen2_5_vl_max_pixels, self.openai_max_pixels)
        return max(*answering, 4 * side * side // 3)


@cache
def model_config() -> ModelConfig:
    """The hyperparameters of this process.

    Raises:
        ConfigError: A value is wrong; the message is one line.
    """
    return read_environment(ModelConfig)
