"""Models that describe images: Gemma 3 and Qwen2.5-VL, which answer a prompt, and Florence-2."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import (
    Florence2ForConditionalGeneration,
    Gemma3ForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)
from trimming import whole_sentences, without_repetitions

from . import metrics
from .backend import (
    Picture,
    Tensors,
    read_parameter,
    read_picture,
    read_size,
    read_text,
    text_tensor,
)
from .batching import InputError
from .compiled import should_compile, warm_up
from .gpu_memory import is_out_of_memory
from .next_token import unsupported
from .prompts import Prompts, Question
from .settings import Settings
from .slots import SlotDecoder
from .weights import load_model, load_processor, picture_inputs, special_tokens, stripper, to_model

_TEMPLATE_TOKENS = 64
"""More than a chat template adds to a prompt and an image."""
_USUAL_TOKENS = 450
"""Of the client's prompt and an image for Gemma 3, and some more."""
_QWEN_ASPECT = 200
"""Qwen's processor refuses a larger ratio."""
_LOCATION = "<loc_"
"""Location tokens are allowed in requests: some tasks are about a region."""
_INSTRUCTION_TOKENS = 64
"""More than the processor adds around a task's text."""

logger = logging.getLogger(__name__)


def load_gemma3(settings: Settings) -> VisionLanguageModel:
    """Gemma 3."""
    model = load_model(Gemma3ForConditionalGeneration, settings)
    # Its own counts them on the GPU and waits for that, and with it for the whole vision tower.
    model.model.get_placeholder_mask = partial(_image_places, model.config.image_token_id)
    return VisionLanguageModel(model, load_processor(settings), settings)


def _image_places(
    image_token: int, input_ids: torch.Tensor, inputs_embeds: Any, image_features: Any
) -> torch.Tensor:
    """Where features of images go, bool [rows, tokens, 1]; the processor made as many places."""
    return (input_ids == image_token)[..., None]


def load_qwen2_5_vl(settings: Settings) -> VisionLanguageModel:
    """Qwen2.5-VL."""
    model = load_model(Qwen2_5_VLForConditionalGeneration, settings)
    return VisionLanguageModel(model, load_processor(settings), settings, _QWEN_ASPECT)


class VisionLanguageModel:
    """Answers by deterministic decoding: the same question has the same answer.

    Args:
        max_aspect: Images with a larger ratio of sides are refused.

    Attributes:
        decoder: What answers in slots; ``None`` where the settings or the weights want more than
            greedy decoding.
    """

    def __init__(
        self, model: Any, processor: Any, settings: Settings, max_aspect: float = float("inf")
    ) -> None:
        self._model = model
        self._processor = processor
        self._settings = settings
        self._max_aspect = max_aspect
        self._prompts = Prompts(model, processor)
        self._strip = stripper(special_tokens(processor.tokenizer))
        self.decoder = self._decoder() if settings.slots > 1 else None

    def prepare(self, request: Any) -> Question:
        """As :meth:`serving.backend.Model.prepare`."""
        image = read_picture(request, self._settings.max_pixels)
        prompt = self._strip(read_text(request, "prompt", self._settings.max_characters))
        if image is None:
            raise InputError("image: one black pixel")
        height, width = image.shape[:2]
        if max(height, width) > self._max_aspect * min(height, width):
            raise InputError(f"image: {(width, height)} is too long for its width")
        return self.question(image, prompt, self._limit(request))

    def question(self, image: Picture, prompt: str, limit: int) -> Question:
        """A question that is answered with at most ``limit`` tokens.

        Raises:
            InputError: The prompt is blank or too long.
        """
        of_image = self._image_tokens(image)
        tokens = self._prompt_tokens(prompt) + _TEMPLATE_TOKENS + of_image
        return Question(image, prompt, of_image, tokens, limit)

    def run(self, inputs: Sequence[Question]) -> list[Tensors]:
        """``answer`` STRING [1]."""
        # The answer follows the prompt, so shorter prompts are padded on the left.
        batch = self.inputs(inputs, padding_side="left")
        with torch.inference_mode():
            written = self._model.generate(
                **batch,
                max_new_tokens=max(question.limit for question in inputs),
                num_beams=self._settings.beams,
                do_sample=False,
            )
        new = written[:, batch["input_ids"].shape[1] :].tolist()
        return [
            self.answer(self._ended(list(tokens[: question.limit])))
            for question, tokens in zip(inputs, new, strict=True)
        ]

    def inputs(self, questions: Sequence[Question], *, padding_side: str) -> dict[str, Any]:
        """Arguments of the model, on its device."""
        return self._prompts.read(questions, padding_side=padding_side)

    def answer(self, tokens: Sequence[int]) -> Tensors:
        """``answer`` STRING [1]: the text of ``tokens``, without loops and broken sentences."""
        text = self._processor.decode(tokens, skip_special_tokens=True).strip()
        once = without_repetitions(text)
        if once != text:
            _note_trimmed(metrics.REPEATED, text, once)
        if tokens and tokens[-1] in self._ends():
            return {"answer": text_tensor(once)}
        whole = whole_sentences(once, len(once), is_cut_off=True)
        _note_trimmed(metrics.CUT_OFF, once, whole)
        return {"answer": text_tensor(whole)}

    def _decoder(self) -> AnswerSlots | None:
        wanted = unsupported(self._model.generation_config)
        if self._settings.beams > 1:
            wanted.append("num_beams")
        if wanted:
            logger.warning("answers are decoded in batches, not in slots: %s", ", ".join(wanted))
            return None
        return AnswerSlots(self, self._model, self._settings)

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        return {ends} if isinstance(ends, int) else set(ends or [])

    def _ended(self, tokens: Sequence[int]) -> Sequence[int]:
        """``tokens`` up to the one that ends the answer; what follows in a batch are pads."""
        ends = self._ends()
        end = next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))
        return tokens[:end]

    def _prompt_tokens(self, prompt: str) -> int:
        if not prompt:
            raise InputError("prompt: blank, or nothing but special tokens")
        tokens = len(self._processor.tokenizer(prompt)["input_ids"])
        if tokens > self._settings.max_prompt_tokens:
            most = self._settings.max_prompt_tokens
            raise InputError(f"prompt: {tokens} tokens, at most {most}")
        return tokens

    def _image_tokens(self, image: Picture) -> int:
        counts = self._processor._get_num_multimodal_tokens(image_sizes=[image.shape[:2]])
        return int(counts["num_image_tokens"][0])

    def _limit(self, request: Any) -> int:
        most = self._settings.max_new_tokens
        text = read_parameter(request, "max_new_tokens")
        if text and not (text.isascii() and text.isdecimal() and int(text)):
            raise InputError(f"max_new_tokens: expected a positive number, not {text[:40]!r}")
        return min(most, int(text or most))


class AnswerSlots:
    """Answers to questions in the slots of a decoder: :class:`serving.slot_server.Decoder`."""

    def __init__(self, owner: VisionLanguageModel, model: Any, settings: Settings) -> None:
        self._owner = owner
        self._slots = SlotDecoder(
            model,
            slots=settings.slots,
            length=settings.kv_length,
            max_new_tokens=settings.max_new_tokens,
            memory_share=settings.memory_share,
            compiles=should_compile(settings.compile_pieces, model.device),
        )
        room = self._slots.length - settings.max_new_tokens
        logger.log(
            logging.INFO if room >= _USUAL_TOKENS else logging.WARNING,
            "beside an answer of %d tokens a slot holds %d of prompt and image; what needs more is"
            " decoded alone",
            settings.max_new_tokens,
            max(0, room),
        )
        if self._slots.compiles:
            # Few, more, one: the shapes of kernels for all. Attention plans for every number.
            more = ((rows, 1) for rows in range(4, settings.batch_size + 1))
            warm_up([(2, 1), (3, 64), (1, 1), *more], self._answer_briefly)

    def _answer_briefly(self, shape: tuple[int, int]) -> None:
        """Answer some questions at once, of so many words."""
        rows, words = shape
        slots = range(min(rows, self.slots))
        picture = np.zeros((64, 64, 3), np.uint8)
        question = self._owner.question(picture, "a " * words, limit=2)
        if self.fits(question):
            self.start(slots, [question] * len(slots))
            self.advance(slots)
            for slot in slots:
                self.stop(slot)

    @property
    def slots(self) -> int:
        """How many there are."""
        return self._slots.slots

    def fits(self, item: Question) -> bool:
        """Whether prompt and answer fit into a slot."""
        return item.tokens + item.limit <= self._slots.length

    def whole(self, item: Question) -> Tensors:
        """The answer of ``generate``, for a question that fits into no slot."""
        logger.info(
            "decoded alone: %d tokens of prompt and image, %d of answer, %d fit into a slot",
            item.tokens,
            item.limit,
            self._slots.length,
        )
        return self._owner.run([item])[0]

    def start(self, slots: Sequence[int], items: Sequence[Question]) -> None:
        """Read the questions into free slots."""
        inputs = self._owner.inputs(items, padding_side="right")
        self._slots.start(slots, inputs, [item.limit for item in items])

    def advance(self, occupied: Sequence[int]) -> None:
        """Begin to write on."""
        self._slots.advance(occupied)

    def ended(self, occupied: Sequence[int]) -> list[int]:
        """Those of ``occupied`` whose answers are complete."""
        return self._slots.ended(occupied)

    def results(self, slots: Sequence[int]) -> list[Callable[[], Tensors]]:
        """The answers in ``slots``."""
        return [partial(self._owner.answer, tokens) for tokens in self._slots.tokens(slots)]

    def stop(self, slot: int) -> None:
        """End the answer in ``slot``."""
        self._slots.stop(slot)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether ``error`` is that of a full GPU."""
        return is_out_of_memory(error)

    def shrink(self) -> bool:
        """Halve the slots, forgetting all answers; ``False`` if there is only one."""
        return self._slots.shrink()


def _note_trimmed(cause: str, before: str, after: str) -> None:
    metrics.count(metrics.TRIMMED, cause)
    kept = f"{len(after)} of {len(before)} characters are kept"
    logger.info("answer trimmed (%s): %s", cause, kept)


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

    decoder = None

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
