"""The settings of a served model, from the environment of Triton.

``CLIP_DEVICE`` is for the model ``clip``, ``MODELS_DEVICE`` for models without their own.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one served model.

    Attributes:
        weights: Where the weights are: a name on the model hub, or a folder.
        revision: Of the weights, where they come from the hub.
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` is the GPU where there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``auto`` is bfloat16 on a GPU.
        max_pixels: Larger images are refused (width times height).
        max_characters: Longer texts are refused.
        max_prompt_tokens: Longer prompts are refused.
        max_new_tokens: Maximum length of an answer, in tokens.
        beams: Width of the beam search; 1 is greedy.
        batch_size: Maximum number of requests in a batch; 1 turns batching off.
        batch_delay_ms: How long a batch waits for the next request.
        batch_patience_ms: How long the first request of a batch waits at most, while others
            keep arriving; never less than ``batch_delay_ms``.
        batch_queue: How many requests may wait in the model; more wait in Triton's queue.
        slots: How many answers are decoded at once, each in a slot of a static cache; 1 decodes
            them in batches, with ``generate``.
        kv_length: Tokens of a slot: prompt, image and answer. Longer ones are decoded alone.
        memory_share: Share of the GPU's free memory that the slots may take, when they are made.
        compile_pieces: ``on``, ``off`` or ``auto``: whether pieces of the model's code are
            compiled when it loads; ``auto`` does so on a GPU.
    """

    weights: str
    revision: str = "main"
    device: str = "auto"
    dtype: str = "auto"
    max_pixels: int = 25_000_000
    max_characters: int = 100_000
    max_prompt_tokens: int = 2048
    max_new_tokens: int = 512
    beams: int = 1
    batch_size: int = 1
    batch_delay_ms: float = 5.0
    batch_patience_ms: float = 100.0
    batch_queue: int = 64
    slots: int = 1
    kv_length: int = 1024
    memory_share: float = 0.6
    compile_pieces: str = "auto"


def read_settings(model: str, defaults: Settings) -> Settings:
    """``defaults``, overridden by the environment for ``model``, its name in Triton.

    Raises:
        ValueError: A value is not a positive number, or none of ``auto``, ``on`` and ``off``.
    """
    found: dict[str, str | int | float] = {}
    for field in fields(Settings):
        for owner in (model, "models"):
            variable = f"{owner}_{field.name}".upper()
            if text := os.environ.get(variable, "").strip():
                found[field.name] = _value(variable, text, type(getattr(defaults, field.name)))
                if field.name == "compile_pieces" and text not in ("auto", "on", "off"):
                    raise ValueError(f"{variable}: expected auto, on or off, not {text!r}")
                break
    return replace(defaults, **found)  # type: ignore[arg-type]


def _value(variable: str, text: str, kind: type[str | int | float]) -> str | int | float:
    if kind is str:
        return text
    try:
        number: str | int | float = kind(text)
    except ValueError:
        number = 0
    if isinstance(number, str) or not 0 < number < math.inf:
        raise ValueError(f"{variable}: expected a positive number, not {text!r}")
    return number
