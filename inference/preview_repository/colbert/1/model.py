"""A preview of ColBERT: a vector for each word, near those of like words."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[3]))

from preview.models import Preview, token_vectors
from serving.backend import read_text

_DIMENSION = 128
_PADDED_TO = 8


class TritonPythonModel(Preview):
    """What Triton's Python backend runs."""

    def answer(self, request: Any) -> dict[str, Any]:
        """The contract of colbert."""
        tokens = token_vectors(read_text(request, "text"), _DIMENSION)
        padding = -len(tokens) % _PADDED_TO
        padded = np.pad(tokens, ((0, padding), (0, 0)))
        return {
            "embedding": padded.reshape(1, -1),
            "token_lengths": np.array([len(tokens)], dtype=np.int32),
        }
