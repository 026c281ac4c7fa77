"""Gemma 3 and Qwen2.5-VL: a prompt about an image, answered in free text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration, Qwen2_5_VLForConditionalGeneration

from .errors import InputError
from .requests import Tensors, read_picture, read_text, text_tensor
from .settings import Settings
from .special_tokens import special_tokens, stripper
from .weights import load_model, load_processor, to_model

_QWEN_ASPECT = 200
"""Qwen's processor refuses a larger ratio."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt about an image."""

    image: Image.Image
    prompt: str


def load_gemma3(settings: Settings) -> VisionLanguageModel:
    """Gemma 3."""
    model = load_model(Gemma3ForConditionalGeneration, settings)
    return VisionLanguageModel(model, load_processor(settings), settings)


def load_qwen2_5_vl(settings: Settings) -> VisionLanguageModel:
    """Qwen2.5-VL."""
    model = load_model(Qwen2_5_VLForConditionalGeneration, settings)
    return VisionLanguageModel(model, load_processor(settings), settings, _QWEN_ASPECT)


class VisionLanguageModel:
    """Answers by deterministic decoding: the same question has the same answer.

    Args:
        max_aspect: Images with a larger ratio of sides are refused.
    """

    def __init__(
        self, model: Any, processor: Any, settings: Settings, max_aspect: float = float("inf")
    ) -> None:
        self._model = model
        self._processor = processor
        self._settings = settings
        self._max_aspect = max_aspect
        self._strip = stripper(special_tokens(processor.tokenizer))
        # The answer follows the prompt, so shorter prompts are padded on the left.
        processor.tokenizer.padding_side = "left"

    def prepare(self, request: Any) -> Question:
        """As :meth:`serving.backend.Model.prepare`."""
        image = read_picture(request, self._settings.max_pixels)
        prompt = self._strip(read_text(request, "prompt", self._settings.max_characters))
        if image is None:
            raise InputError("image: one black pixel")
        if max(image.size) > self._max_aspect * min(image.size):
            raise InputError(f"image: {image.size} is too long for its width")
        self._check_prompt(prompt)
        return Question(image, prompt)

    def run(self, inputs: Sequence[Question]) -> list[Tensors]:
        """``answer`` STRING [1]."""
        batch = self._processor.apply_chat_template(
            [_conversation(question) for question in inputs],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        with torch.inference_mode():
            written = self._model.generate(
                **to_model(self._model, batch),
                max_new_tokens=self._settings.max_new_tokens,
                num_beams=self._settings.beams,
                do_sample=False,
            )
        new = written[:, batch["input_ids"].shape[1] :]
        answers = self._processor.batch_decode(new, skip_special_tokens=True)
        return [{"answer": text_tensor(answer.strip())} for answer in answers]

    def _check_prompt(self, prompt: str) -> None:
        if not prompt:
            raise InputError("prompt: blank, or nothing but special tokens")
        tokens = len(self._processor.tokenizer(prompt)["input_ids"])
        if tokens > self._settings.max_prompt_tokens:
            most = self._settings.max_prompt_tokens
            raise InputError(f"prompt: {tokens} tokens, at most {most}")


def _conversation(question: Question) -> list[dict[str, Any]]:
    image = {"type": "image", "image": question.image}
    return [{"role": "user", "content": [image, {"type": "text", "text": question.prompt}]}]
