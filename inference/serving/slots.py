"""Decoding in slots: a static key-value cache, and one step that writes a token into every slot.

``generate`` of transformers grows a cache for each batch and launches thousands of kernels a token
from Python, which leaves a GPU mostly idle. Here the shapes never change, so that on a GPU a step
is one CUDA graph, and a slot whose answer has ended is free for another request at once. Answers
are those of greedy ``generate``: the same model code runs, on keys and values laid out differently.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from .compiled import Compiled, text_pieces, vision_pieces
from .gpu_memory import is_out_of_memory
from .next_token import GreedyRules

_GPU_STEPS = 8
"""Steps between two looks at what has ended: a look makes the GPU wait for Python."""
_GRAPH_ROWS = (1, 8, 16, 32, 64, 128)
"""Numbers of slots that have a graph; also the number that there are."""
_LENGTH_UNIT = 64
"""Lengths of graphs are multiples of it: attention kernels want aligned masks."""
_WARM_UPS = 2
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, which plans anew for each shape."""
logger = logging.getLogger(__name__)


class _Layers:
    """The cache as the model's attention sees it in one step: some slots, up to some length."""

    def __init__(
        self, memory: torch.Tensor, slot: torch.Tensor, position: torch.Tensor, length: int
    ) -> None:
        self._memory, self._slot, self._position, self._length = memory, slot, position, length

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store ``key`` and ``value`` [rows, heads, 1, width]; return all of the layer."""
        keys, values = self._memory[layer_idx, :, : len(self._slot)]
        keys[self._slot, :, self._position] = key[:, :, 0]
        values[self._slot, :, self._position] = value[:, :, 0]
        return keys[:, :, : self._length], values[:, :, : self._length]

    def get_seq_length(self, *_: Any) -> int:
        """Nothing: positions and masks are given."""
        return 0


class SlotDecoder:
    """Slots of a model of images and text, such as Gemma 3 or Qwen2.5-VL.

    Args:
        model: A ``…ForConditionalGeneration`` whose parts are ``model.language_model`` and
            ``lm_head``.
        slots: Answers that are written at once; fewer where the memory does not suffice.
        length: Tokens of a slot: prompt, image and answer.
        max_new_tokens: Of an answer.
        memory_share: Share of the free memory that the slots may take.
        compiles: Whether pieces of the model's code are compiled; then :meth:`start` is slow for
            the first few shapes.

    Attributes:
        compiles: Whether they are.
        length: Tokens of a slot, some more than asked for.
        slots: How many there are.
    """

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        length: int,
        max_new_tokens: int,
        memory_share: float,
        compiles: bool,
    ) -> None:
        self._model = model
        self._device: torch.device = model.device
        self._on_gpu = self._device.type == "cuda"
        self._text = model.config.get_text_config()
        self._max_new = max_new_tokens
        self.compiles = compiles
        # A graph is of one shape; prompts come in all.
        step = text_pieces(model) if self.compiles else []
        self._step_pieces = Compiled(step, dynamic=False if self._on_gpu else None)
        prompt = [*step, *vision_pieces(model)] if self.compiles else []
        self._prompt_pieces = Compiled(prompt, dynamic=None)
        self.length = -(-length // _LENGTH_UNIT) * _LENGTH_UNIT
        self._layer_types = set(getattr(self._text, "layer_types", None) or ["full_attention"])
        self._rules = GreedyRules(model)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._pool: Any = None
        self._allocate(self._affordable(slots, memory_share))

    def shrink(self) -> bool:
        """Halve the slots, and forget what is in them; ``False`` if there is only one."""
        if self.slots == 1:
            return False
        half = self.slots // 2
        self._free()
        self._allocate(half)
        return True

    @torch.inference_mode()
    def start(
        self, slots: Sequence[int], inputs: Mapping[str, torch.Tensor], limits: Sequence[int]
    ) -> None:
        """Read prompts into free ``slots`` and write the first token of each answer.

        Args:
            inputs: Arguments of the model, prompts padded on the right.
            limits: The most tokens of each answer.
        """
        with self._on_device(), self._prompt_pieces:
            self._start(slots, inputs, limits)

    def _start(
        self, slots: Sequence[int], inputs: Mapping[str, torch.Tensor], limits: Sequence[int]
    ) -> None:
        lengths = inputs["attention_mask"].sum(1)
        # Read and copied before the rest, which the GPU then goes on with after the return.
        for each, length in zip(slots, lengths.tolist(), strict=True):
            self._reached[each] = length
        slot = torch.tensor(list(slots), device=self._device)
        limit = torch.tensor(list(limits), device=self._device)
        cache = DynamicCache()
        states = self._model.model(**inputs, cache=cache, use_cache=True).last_hidden_state
        row = torch.arange(len(slots), device=self._device)
        ends = states[row, lengths - 1]
        wide = states.shape[1]
        for layer, held in enumerate(cache.layers):
            self._memory[layer, 0, slot, :, :wide] = held.keys
            self._memory[layer, 1, slot, :, :wide] = held.values
        self._rules.begin(slot, inputs)
        self._count.index_fill_(0, slot, 0)
        self._limit[slot] = limit
        self._position[slot] = lengths - 1
        self._offset[slot] = self._offsets(len(slots))
        self._running.index_fill_(0, slot, True)
        self._write(self._model.lm_head(ends), slot)

    @torch.inference_mode()
    def advance(self, occupied: Sequence[int]) -> None:
        """Write the next tokens of every slot; a GPU goes on with that after the return."""
        steps = _GPU_STEPS if self._on_gpu else 1
        rows = max(occupied) + 1
        length = min(self.length, max(self._reached[slot] for slot in occupied) + steps)
        if self._on_gpu:
            # The largest graph has every slot and the whole length.
            rows = next(each for each in self._graph_rows() if each >= rows)
            length = next(each for each in self._graph_lengths() if each >= length)
        with self._on_device(), self._step_pieces:
            for _ in range(steps):
                if self._on_gpu:
                    self._graphs[rows, length].replay()
                else:
                    self._step(rows, length)
        for slot in occupied:
            self._reached[slot] += steps

    def ended(self, occupied: Sequence[int]) -> list[int]:
        """Those of ``occupied`` whose answers are complete; waits for the GPU."""
        running = self._running.tolist()
        return [slot for slot in occupied if not running[slot]]

    def stop(self, slot: int) -> None:
        """End the answer in ``slot``: nobody waits for it."""
        self._running[slot].fill_(False)

    def tokens(self, slots: Sequence[int]) -> list[list[int]]:
        """What was written into ``slots``."""
        chosen = torch.tensor(list(slots), device=self._device)
        counts, answers = self._count[chosen].tolist(), self._answer[chosen].tolist()
        return [answer[:count] for answer, count in zip(answers, counts, strict=True)]

    def _affordable(self, slots: int, share: float) -> int:
        free = self._free_memory()
        if free is None:
            return slots
        fit = int(share * free // self._slot_bytes())
        if fit < slots:
            logger.warning(
                "%d slots instead of %d: each takes %.0f MB, %.1f GB are free and their share is"
                " %g",
                max(1, fit),
                slots,
                self._slot_bytes() / 1e6,
                free / 1e9,
                share,
            )
        return max(1, min(slots, fit))

    def _free_memory(self) -> int | None:
        """In bytes; ``None`` where it is not known."""
        return torch.cuda.mem_get_info(self._device)[0] if self._on_gpu else None

    def _slot_bytes(self) -> int:
        text, size = self._text, self._model.dtype.itemsize
        width: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return int(
            2 * text.num_hidden_layers * text.num_key_value_heads * width * self.length * size
        )

    def _allocate(self, slots: int) -> None:
        """Memory for ``slots``, or for half of them as often as that is too much."""
        while not self._fits(slots):
            # Here, where the error and with it the frames that hold memory are gone.
            self._free()
            logger.warning("out of memory with %d slots: trying %d", slots, slots // 2)
            slots //= 2
        logger.info(
            "%d slots of %d tokens, %.2f GB in %s on %s",
            slots,
            self.length,
            slots * self._slot_bytes() / 1e9,
            str(self._model.dtype).removeprefix("torch."),
            self._device,
        )

    def _fits(self, slots: int) -> bool:
        """Take memory for ``slots``; ``False`` if that is too much, and fewer are possible."""
        try:
            self._take(slots)
            self._capture()
        except RuntimeError as error:
            if slots == 1 or not is_out_of_memory(error):
                raise
            return False
        return True

    def _take(self, slots: int) -> None:
        text = self._text
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        shape = (
            text.num_hidden_layers,
            2,
            slots,
            text.num_key_value_heads,
            self.length,
            width,
        )
        # Zeros: what is masked is multiplied by nothing, and nothing times NaN is NaN.
        self._memory = torch.zeros(shape, dtype=self._model.dtype, device=self._device)
        self.slots = slots
        numbers = {"dtype": torch.long, "device": self._device}
        self._token = torch.zeros(slots, **numbers)
        self._position = torch.zeros(slots, **numbers)
        self._offset = torch.zeros(slots, **numbers)
        self._count = torch.zeros(slots, **numbers)
        self._limit = torch.zeros(slots, **numbers)
        self._answer = torch.zeros((slots, self._max_new), **numbers)
        self._running = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._place = torch.arange(self.length, device=self._device)
        self._every = torch.arange(slots, device=self._device)
        self._reached = [0] * slots
        self._rules.allocate(slots)

    def _free(self) -> None:
        self._graphs.clear()
        self._pool = None
        self._memory = torch.empty(0)
        self._rules.allocate(0)
        if self._on_gpu:
            torch.cuda.empty_cache()

    def _graph_rows(self) -> list[int]:
        return [*(rows for rows in _GRAPH_ROWS if rows < self.slots), self.slots]

    def _graph_lengths(self) -> list[int]:
        """Half of the length, three quarters, all: a step reads no more keys than it needs."""
        parts = (self.length * quarters // 4 for quarters in (2, 3))
        return sorted({self.length, *(part // _LENGTH_UNIT * _LENGTH_UNIT for part in parts)} - {0})

    @torch.inference_mode()
    def _capture(self) -> None:
        """A graph for each number of slots and each length."""
        if not self._on_gpu:
            return
        began = time.monotonic()
        with self._on_device(), self._step_pieces:
            for rows in reversed(self._graph_rows()):
                for length in reversed(self._graph_lengths()):
                    self._graphs[rows, length] = self._captured(rows, length)
        logger.info(
            "captured %d CUDA graphs in %.1f s%s",
            len(self._graphs),
            time.monotonic() - began,
            ", their pieces compiled" if self.compiles else "",
        )

    def _captured(self, rows: int, length: int) -> torch.cuda.CUDAGraph:
        # No slot is running: a step changes nothing but the keys and values of free slots.
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._step(rows, length)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(rows, length)
        if self._pool is None:
            self._pool = graph.pool()
        return graph

    def _step(self, rows: int, length: int) -> None:
        slot, position = self._every[:rows], self._position[:rows]
        states = self._model.model.language_model(
            input_ids=self._token[:rows, None],
            attention_mask=self._masks(position, length),
            position_ids=(position + self._offset[:rows])[:, None],
            cache=_Layers(self._memory, slot, position, length),
            use_cache=True,
        ).last_hidden_state
        self._write(self._model.lm_head(states[:, -1]), slot)

    def _masks(self, position: torch.Tensor, length: int) -> dict[str, torch.Tensor]:
        """For each kind of layer, what is added to the scores of the newest token of each row.

        Not true and false, which attention would convert anew in each layer.
        """
        place, newest = self._place[None, :length], position[:, None]
        unseen = place > newest
        masks = {"full_attention": self._added(unseen)}
        if "sliding_attention" in self._layer_types:
            far = place <= newest - self._text.sliding_window
            masks["sliding_attention"] = self._added(unseen | far)
        return masks

    def _added(self, unseen: torch.Tensor) -> torch.Tensor:
        nothing = torch.zeros_like(unseen, dtype=self._model.dtype)
        return nothing.masked_fill_(unseen, -torch.inf)[:, None, None]

    def _write(self, logits: torch.Tensor, slot: torch.Tensor) -> None:
        """The best token of each row into its slot, unless the answer there has ended."""
        running, count = self._running[slot], self._count[slot]
        token = self._rules.best(logits, slot, count)
        token = torch.where(running, token, self._token[slot])
        at = count.clamp(max=self._max_new - 1)
        self._answer[slot, at] = torch.where(running, token, self._answer[slot, at])
        going = running.long()
        self._token[slot] = token
        self._count[slot] = count + going
        self._position[slot] += going
        goes_on = (count + going < self._limit[slot]) & ~self._rules.is_end[token]
        self._running[slot] = running & goes_on

    def _offsets(self, rows: int) -> torch.Tensor:
        """By how much the position of an answer's token differs from its place in the slot."""
        offsets = getattr(self._model.model, "rope_deltas", None)
        if offsets is None:
            return torch.zeros(rows, dtype=torch.long, device=self._device)
        return torch.as_tensor(offsets).reshape(rows).to(self._device)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Let calls of this thread go to the model's GPU, where there are several."""
        if not self._on_gpu:
            yield
            return
        with torch.cuda.device(self._device), sdpa_kernel(_ATTENTION):
            yield
