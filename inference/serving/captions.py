"""Models that describe images: Gemma 3 and Qwen2.5-VL, which answer a prompt, and Florence-2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    Florence2ForConditionalGeneration,
    Gemma3ForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)

from .backend import Picture, Tensors, read_picture, read_size, read_text, text_tensor
from .batching import InputError
from .settings import Settings
from .weights import load_model, load_processor, picture_inputs, special_tokens, stripper, to_model

_QWEN_ASPECT = 200
"""Qwen's processor refuses a larger ratio."""
_LOCATION = "<loc_"
"""Location tokens are allowed in requests: some tasks are about a region."""
_INSTRUCTION_TOKENS = 64
"""More than the processor adds around a task's text."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt about an image."""

    image: Picture
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
        height, width = image.shape[:2]
        if max(height, width) > self._max_aspect * min(height, width):
            raise InputError(f"image: {(width, height)} is too long for its width")
        self._check_prompt(prompt)
        return Question(image, prompt)

    def run(self, inputs: Sequence[Question]) -> list[Tensors]:
        """``answer`` STRING [1]."""
        pictures = picture_inputs([question.image for question in inputs], self._model.device)
        pictures["images"] = [[picture] for picture in pictures["images"]]
        batch = self._processor.apply_chat_template(
            [_conversation(question.prompt) for question in inputs],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, **pictures},
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


def _conversation(prompt: str) -> list[dict[str, Any]]:
    """One turn: an image, which comes apart from it, and ``prompt``."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]


@dataclass(frozen=True, slots=True)
class Task:
    """A task about an image.

    Attributes:
        text: Input of the task, ``""`` for most tasks.
        size: Width and height in the units of the returned boxes.
    """

    image: Picture
    name: str
    text: str
    size: tuple[int, int]


def load_florence2(settings: Settings) -> FlorenceModel:
    """Florence-2, in the layout of transformers' own class.

    ``florence-community/Florence-2-base`` holds the weights of ``microsoft/Florence-2-base`` so.
    """
    return FlorenceModel(
        load_model(Florence2ForConditionalGeneration, settings), load_processor(settings), settings
    )


class FlorenceModel:
    """Answers with JSON keyed by the task."""

    def __init__(self, model: Any, processor: Any, settings: Settings) -> None:
        self._model = model
        self._processor = processor
        self._settings = settings
        positions = model.config.text_config.max_position_embeddings
        self._max_tokens = positions - processor.num_image_tokens - _INSTRUCTION_TOKENS
        tokens = special_tokens(processor.tokenizer)
        self._strip = stripper({token for token in tokens if not token.startswith(_LOCATION)})

    def prepare(self, request: Any) -> Task:
        """As :meth:`serving.backend.Model.prepare`."""
        image = read_picture(request, self._settings.max_pixels)
        task = read_text(request, "prompt", self._settings.max_characters).strip()
        text = self._strip(read_text(request, "text_input", self._settings.max_characters))
        if image is None:
            raise InputError("image: one black pixel")
        return Task(image, task, self._checked(task, text), read_size(request))

    def run(self, inputs: Sequence[Task]) -> list[Tensors]:
        """``answer`` STRING [1]."""
        batch = self._processor(
            text=[task.name + task.text for task in inputs],
            padding=True,
            return_tensors="pt",
            **picture_inputs([task.image for task in inputs], self._model.device),
        )
        with torch.inference_mode():
            written = self._model.generate(
                **to_model(self._model, batch),
                max_new_tokens=self._settings.max_new_tokens,
                num_beams=self._settings.beams,
                do_sample=False,
            )
        texts = self._processor.batch_decode(written, skip_special_tokens=False)
        return [self._outputs(task, text) for task, text in zip(inputs, texts, strict=True)]

    def _checked(self, task: str, text: str) -> str:
        if task in self._processor.task_prompts_without_inputs:
            if text:
                raise InputError(f"text_input: {task} takes no text")
            return ""
        if task not in self._processor.task_prompts_with_input:
            raise InputError(f"prompt: unknown task {task[:40]!r}")
        if not text:
            raise InputError(f"text_input: {task} needs one")
        return self._cut(text)

    def _cut(self, text: str) -> str:
        """``text``, truncated to what the model can read beside the image."""
        tokenizer = self._processor.tokenizer
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) <= self._max_tokens:
            return text
        return str(tokenizer.decode(tokens[: self._max_tokens]))

    def _outputs(self, task: Task, text: str) -> Tensors:
        pad = self._processor.tokenizer.pad_token
        answer = self._processor.post_process_generation(
            text=text.replace(pad, ""), task=task.name, image_size=task.size
        )
        return {"answer": text_tensor(json.dumps(answer))}
