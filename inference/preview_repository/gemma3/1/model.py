"""A preview of Gemma 3."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

from preview.models import CaptionPreview


class TritonPythonModel(CaptionPreview):
    """What Triton's Python backend runs."""
