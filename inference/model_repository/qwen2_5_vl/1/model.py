"""Qwen2.5-VL: a prompt about an image, answered in free text."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from serving.backend import Backend
from serving.settings import Settings


class TritonPythonModel(Backend):
    """What Triton's Python backend runs."""

    # A picture takes up to 1024 tokens, and one that was not reduced more.
    defaults = Settings(
        weights="Qwen/Qwen2.5-VL-3B-Instruct",
        batch_size=8,
        batch_patience_ms=250.0,
        slots=32,
        kv_length=2048,
    )

    def load(self, settings: Settings) -> Any:
        """The model and its processor, on their device."""
        from serving.captions import load_qwen2_5_vl

        return load_qwen2_5_vl(settings)
