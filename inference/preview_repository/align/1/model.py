"""A preview of ALIGN."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

from preview.models import JointPreview


class TritonPythonModel(JointPreview):
    """What Triton's Python backend runs."""

    dimension = 640
