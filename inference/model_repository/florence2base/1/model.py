"""Florence-2: one model for many tasks."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from serving.backend import Backend
from serving.settings import Settings


class TritonPythonModel(Backend):
    """What Triton's Python backend runs."""

    defaults = Settings(weights="florence-community/Florence-2-base", max_new_tokens=1024, beams=3)

    def load(self, settings: Settings) -> Any:
        """The model and its processor, on their device."""
        from serving.captions import load_florence2

        return load_florence2(settings)
