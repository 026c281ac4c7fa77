"""Captions and embeddings from the models in Triton.

``from inference import NAME`` takes any name of :mod:`inference.model`. It is imported on first
use, so that :mod:`inference.model_config` loads no gRPC client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.model import *  # noqa: F403


def __getattr__(name: str) -> object:
    model = import_module("inference.model")
    if name in model.__all__:
        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
