"""Loading weights and their processors, from the model hub or a folder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoProcessor

from .settings import Settings


def load_model(kind: Any, settings: Settings) -> Any:
    """Load the weights as ``kind``, a class of transformers, on their device.

    Raises:
        ValueError: They lack a part of ``kind``, which would be initialised at random.
        OSError: They cannot be loaded.
    """
    device = _device(settings.device)
    model, report = kind.from_pretrained(
        settings.weights,
        revision=settings.revision,
        dtype=_dtype(settings.dtype, device),
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:3])
        raise ValueError(f"{settings.weights}: no {kind.__name__}, it lacks {shown}")
    return model.to(device).eval()


def load_processor(settings: Settings, kind: Any = AutoProcessor) -> Any:
    """The processor, or with ``kind`` the tokenizer, that belongs to the weights."""
    return kind.from_pretrained(settings.weights, revision=settings.revision)


def to_model(model: Any, inputs: Any) -> dict[str, Any]:
    """Tensors by name, on the device of ``model`` and in its precision."""
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        # In float16 Gemma 3 overflows: empty answers, or NaN.
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, not {name!r}")
    return found
