"""ColBERT: a vector for every token of a text."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from serving.backend import Backend
from serving.settings import Settings


class TritonPythonModel(Backend):
    """What Triton's Python backend runs."""

    defaults = Settings(weights="colbert-ir/colbertv2.0", batch_size=16)

    def load(self, settings: Settings) -> Any:
        """The model and its processor, on their device."""
        from serving.embeddings import load_colbert

        return load_colbert(settings)
