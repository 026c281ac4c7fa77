"""The next token of an answer, as the generation config of the weights and ``generate`` have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_PLAIN = {
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "begin_suppress_tokens": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "min_length": (None, 0),
}
"""Settings of generation that change a greedy answer, and their values that do not."""


def unsupported(generation_config: Any) -> list[str]:
    """The settings of ``generation_config`` that decoding in slots does not know."""
    return [
        name
        for name, plain in _PLAIN.items()
        if getattr(generation_config, name, None) not in plain
    ]


class GreedyRules:
    """What the generation config of the weights says of the next token, as ``generate`` has it."""

    def __init__(self, model: Any) -> None:
        config, device = model.generation_config, model.device
        ends = config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self._vocabulary: int = model.config.get_text_config().vocab_size
        self._device = device
        self.is_end = self._marked(ends)
        suppressed = list(config.suppress_tokens or [])
        self._suppressed = self._marked(suppressed) if suppressed else None
        self._min_new = config.min_new_tokens or 0
        self._penalty = config.repetition_penalty or 1.0
        self._seen: torch.Tensor | None = None
        # A graph cannot copy a value of Python's.
        self._true = torch.ones((), dtype=torch.bool, device=device)

    def allocate(self, slots: int) -> None:
        """Memory for the tokens that each slot has seen, if seeing one again has a penalty."""
        if self._penalty != 1.0:
            shape = (slots, self._vocabulary)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=self._device)

    def begin(self, slot: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> None:
        """Note the prompts of ``slot``."""
        if self._seen is None:
            return
        ids, given = inputs["input_ids"], inputs["attention_mask"].bool()
        self._seen.index_fill_(0, slot, False)
        # A pad on the right stands for the last token: no other is marked for it.
        last = ids.gather(1, given.sum(1, keepdim=True) - 1)
        self._seen.index_put_((slot[:, None], torch.where(given, ids, last)), self._true)

    def best(self, logits: torch.Tensor, slot: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """The next token of each row of ``logits``, the ``count``-th of its answer."""
        scores = logits
        if self._seen is not None:
            scores = scores.float()
            penalised = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
            scores = torch.where(self._seen[slot], penalised, scores)
        if self._suppressed is not None:
            scores = scores.masked_fill(self._suppressed, -torch.inf)
        if self._min_new:
            too_early = (count < self._min_new)[:, None] & self.is_end
            scores = scores.masked_fill(too_early, -torch.inf)
        token = scores.argmax(-1)
        if self._seen is not None:
            self._seen.index_put_((slot, token), self._true)
        return token

    def _marked(self, tokens: Sequence[int]) -> torch.Tensor:
        marked = torch.zeros(self._vocabulary, dtype=torch.bool, device=self._device)
        marked[torch.tensor(tokens, dtype=torch.long, device=self._device)] = True
        return marked
