"""Pieces of a model's code as a kernel or few each: what ``torch.compile`` makes of them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch

from .gpu_memory import is_out_of_memory

_PIECES = ("RMSNorm", "MLP")
"""How the names of the compiled layers of text end."""
_ROTARY = ("apply_rotary_pos_emb", "apply_multimodal_rotary_pos_emb")
_ENCODER = ("EncoderLayer",)
_VERSIONS = 64
"""Of a piece: for each number of rows and width. The default of torch is 8."""
Shape = TypeVar("Shape")
Owner = tuple[Any, str]
"""What has a piece, and the attribute that is it."""

logger = logging.getLogger(__name__)


def should_compile(setting: str, device: torch.device) -> bool:
    """Whether pieces are compiled for ``device``; if that is not possible, the log says why.

    Args:
        setting: ``on``, ``off``, or ``auto``: on a GPU, which gains by it.
    """
    return (setting == "on" or (setting == "auto" and device.type == "cuda")) and _can(device)


def _can(device: torch.device) -> bool:
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("nothing is compiled: %s", reason)
        return False
    return True


def warm_up(shapes: Iterable[Shape], run: Callable[[Shape], None]) -> None:
    """Call ``run`` for each of ``shapes``, of which kernels are made, so that no request waits.

    Ends where the memory does: a larger one has its kernels made when it comes.
    """
    began = time.monotonic()
    for shape in shapes:
        try:
            run(shape)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("out of memory while kernels are made: not made for %s and more", shape)
            break
    logger.info("compiled pieces of the model in %.1f s", time.monotonic() - began)


def text_pieces(model: Any) -> list[Owner]:
    """Norms, feed-forward layers and the rotary embedding of the language model."""
    language_model = model.model.language_model
    module = sys.modules[type(language_model).__module__]
    rotary: list[Owner] = [(module, name) for name in _ROTARY if hasattr(module, name)]
    return [*_layers(language_model, _PIECES), *rotary]


def vision_pieces(model: Any) -> list[Owner]:
    """The layers of the vision tower, where every picture has the same number of parts."""
    tower = getattr(model.model, "vision_tower", None)
    return [] if tower is None else _layers(tower, _ENCODER)


def encoder_pieces(model: Any) -> list[Owner]:
    """The layers of a model that only encodes, of texts and of pictures."""
    return _layers(model, _ENCODER)


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
