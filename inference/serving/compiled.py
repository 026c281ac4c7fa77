"""Pieces of a model's code as a kernel or few each: what ``torch.compile`` makes of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

_PIECES = ("RMSNorm", "MLP")
"""How the names of the compiled layers of text end."""
_ROTARY = ("apply_rotary_pos_emb", "apply_multimodal_rotary_pos_emb")
_VISION = ("EncoderLayer",)
_VERSIONS = 64
"""Of a piece: for each number of rows and width. The default of torch is 8."""
Owner = tuple[Any, str]
"""What has a piece, and the attribute that is it."""

logger = logging.getLogger(__name__)


def can_compile(device: torch.device) -> bool:
    """Whether something can be compiled for ``device`` here; the log says why not."""
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("COMPILE_PIECES=on, but nothing is compiled: %s", reason)
        return False
    return True


def text_pieces(model: Any) -> list[Owner]:
    """Norms, feed-forward layers and the rotary embedding of the language model."""
    language_model = model.model.language_model
    module = sys.modules[type(language_model).__module__]
    rotary: list[Owner] = [(module, name) for name in _ROTARY if hasattr(module, name)]
    return [*_layers(language_model, _PIECES), *rotary]


def vision_pieces(model: Any) -> list[Owner]:
    """The layers of the vision tower, where every picture has the same number of parts."""
    tower = getattr(model.model, "vision_tower", None)
    return [] if tower is None else _layers(tower, _VISION)


def _layers(whole: Any, names: tuple[str, ...]) -> list[Owner]:
    kinds = {type(part) for part in whole.modules()}
    return [(kind, "forward") for kind in kinds if kind.__name__.endswith(names)]


class Compiled:
    """Pieces that are compiled ones within a ``with`` block of this, one block at a time.

    A CUDA graph that is captured meanwhile keeps them.

    Args:
        dynamic: ``False`` compiles for each shape, ``None`` for all of them once there are two.
    """

    def __init__(self, pieces: list[Owner], *, dynamic: bool | None) -> None:
        self._pieces = pieces
        self._plain = [getattr(owner, name) for owner, name in pieces]
        self._compiled = [torch.compile(plain, dynamic=dynamic) for plain in self._plain]
        # Here, since each thread has settings of its own. What cannot be compiled runs as it is.
        self._config: Any = (
            torch._dynamo.config.patch(recompile_limit=_VERSIONS, suppress_errors=True)
            if pieces
            else nullcontext()
        )

    def __enter__(self) -> None:
        self._config.__enter__()
        self._put(self._compiled)

    def __exit__(self, *_: object) -> None:
        self._put(self._plain)
        self._config.__exit__(None, None, None)

    def _put(self, functions: list[Callable[..., Any]]) -> None:
        for (owner, name), function in zip(self._pieces, functions, strict=True):
            setattr(owner, name, function)


def _trial(numbers: torch.Tensor) -> torch.Tensor:
    return numbers * 2 + 1
