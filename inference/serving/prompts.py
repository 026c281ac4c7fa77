"""What a vision-language model reads: the tokens of prompts, which are kept, and the pictures.

Nearly all requests ask the same. A processor of transformers takes 3 ms to write and read a prompt
with the places of an image's tokens, for 16 requests as long as a GPU takes for 6 steps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .backend import Picture
from .weights import picture_inputs, to_model

_KEPT = 256
"""Prompts whose tokens are kept."""
_PADDED_TO = 16
"""Tokens: attention copies a mask whose rows are not aligned, and more of them cost time."""
Tokens = Mapping[str, torch.Tensor]
"""Arguments of the model with a value for each token."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt about an image.

    Attributes:
        image_tokens: How many of them stand for the image.
        tokens: Of the prompt and the image, never less than there are.
        limit: The most tokens of the answer.
    """

    image: Picture
    prompt: str
    image_tokens: int
    tokens: int
    limit: int


class Prompts:
    """Makes the arguments of a model from questions, with its processor; for one thread."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor
        self._kept: OrderedDict[tuple[str, int], Tokens] = OrderedDict()

    def read(self, questions: Sequence[Question], *, padding_side: str) -> dict[str, Any]:
        """Arguments of the model for ``questions``, on its device.

        Args:
            padding_side: Where shorter prompts are padded, ``left`` or ``right``; on the right, so
                that the width is a multiple of 16.
        """
        tokens = [self._tokens(question) for question in questions]
        pads = {"input_ids": self._processor.tokenizer.pad_token_id}
        batch = {
            name: _padded([each[name] for each in tokens], pads.get(name, 0), padding_side)
            for name in tokens[0]
        }
        return to_model(self._model, {**batch, **self._pictures(questions)})

    def _tokens(self, question: Question) -> Tokens:
        key = question.prompt, question.image_tokens
        if key not in self._kept:
            self._kept[key] = self._first(question)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _first(self, question: Question) -> Tokens:
        """As the processor has them, which is asked for pictures too: it counts their tokens."""
        pictures = picture_inputs([question.image], self._model.device)
        whole = self._processor.apply_chat_template(
            _conversation(question.prompt),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=pictures,
        )
        (width,) = whole["input_ids"][0].shape
        return {
            name: values[0].cpu()
            for name, values in whole.items()
            if isinstance(values, torch.Tensor) and values.shape == (1, width)
        }

    def _pictures(self, questions: Sequence[Question]) -> dict[str, Any]:
        processor = self._processor
        found = processor.image_processor(
            **getattr(type(processor), "images_kwargs", {}),
            **picture_inputs([each.image for each in questions], self._model.device),
            return_tensors="pt",
        )
        unused = processor.unused_input_names
        return {name: values for name, values in found.items() if name not in unused}


def _conversation(prompt: str) -> list[dict[str, Any]]:
    """One turn: an image, which comes apart from it, and ``prompt``."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]


def _padded(rows: Sequence[torch.Tensor], pad: int, side: str) -> torch.Tensor:
    """``rows`` as one tensor; ``pad`` fills what is missing."""
    width = max(len(row) for row in rows)
    if side == "right":
        width = -(-width // _PADDED_TO) * _PADDED_TO
    whole = rows[0].new_full((len(rows), width), pad)
    for row, given in zip(whole, rows, strict=True):
        if side == "right":
            row[: len(given)] = given
        else:
            row[width - len(given) :] = given
    return whole
