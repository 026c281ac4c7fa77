"""How a full GPU is told from other errors."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether ``error``, or one that it arose from, is that of a full GPU.

    PyTorch has a class for those of its own memory; those of CUDA and its libraries are told by
    their words alone, and may hide behind that of the capture they broke off.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or any(
            words in str(error) for words in ("out of memory", "ALLOC_FAILED")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
