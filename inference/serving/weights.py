"""Loading weights and their processors, from the model hub or a folder; special tokens.

Special tokens, such as the end of a turn, are removed from requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:
    import torch

    from .backend import Picture


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


def load_processor(settings: Settings, kind: Any = None) -> Any:
    """The processor, or with ``kind`` the tokenizer, that belongs to the weights."""
    if kind is None:
        from transformers import AutoProcessor

        kind = AutoProcessor
    return kind.from_pretrained(settings.weights, revision=settings.revision)


def to_model(model: Any, inputs: Any) -> dict[str, Any]:
    """Tensors by name, on the device of ``model`` and in its precision."""
    return {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


def picture_inputs(pictures: Sequence[Picture], device: torch.device) -> dict[str, Any]:
    """``pictures`` as arguments of an image processor, which prepares them on ``device``."""
    import torch

    return {
        "images": [torch.from_numpy(each).to(device).permute(2, 0, 1) for each in pictures],
        "device": device,
        # Else a processor guesses the axes, and mistakes those of an image 1 or 3 pixels high.
        "input_data_format": "channels_first",
    }


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name == "auto":
        # In float16 Gemma 3 overflows: empty answers, or NaN.
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, not {name!r}")
    return found


def special_tokens(tokenizer: Any) -> set[str]:
    """The special tokens of a Hugging Face tokenizer."""
    added = {str(each) for each in tokenizer.added_tokens_decoder.values() if each.special}
    return added | set(tokenizer.all_special_tokens)


def stripper(tokens: set[str]) -> Callable[[str], str]:
    """A function that removes ``tokens`` from a text, until none is left."""
    longest_first = sorted(map(re.escape, tokens), key=len, reverse=True)
    pattern = re.compile("|".join(longest_first) or r"(?!)")

    def strip(text: str) -> str:
        found = 1
        while found:
            text, found = pattern.subn("", text)
        return text.strip()

    return strip
