"""Gemma 3: a prompt about an image, answered in free text."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from serving.backend import Backend
from serving.settings import Settings


class TritonPythonModel(Backend):
    """What Triton's Python backend runs."""

    defaults = Settings(
        weights="google/gemma-3-4b-it", batch_size=16, batch_patience_ms=250.0, slots=64
    )

    def load(self, settings: Settings) -> Any:
        """The model and its processor, on their device."""
        from serving.captions import load_gemma3

        return load_gemma3(settings)
