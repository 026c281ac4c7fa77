"""CLIP: vectors of images and texts in one space."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from serving.backend import Backend
from serving.settings import Settings


class TritonPythonModel(Backend):
    """What Triton's Python backend runs."""

    defaults = Settings(weights="apple/DFN5B-CLIP-ViT-H-14-378", batch_size=32)

    def load(self, settings: Settings) -> Any:
        """The model and its processor, on their device."""
        from serving.embeddings import load_clip

        return load_clip(settings)
