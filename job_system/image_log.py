"""The one line that every run of an image leaves in the log."""

from __future__ import annotations

import logging

from processing import Stages

logger = logging.getLogger(__name__)


def log_image(
    level: int, image_id: str, outcome: str, stages: Stages, detail: str | None = None
) -> None:
    """Tell how a run ended: the image's id, which is its task's too, outcome and stage times.

    Args:
        level: Of :mod:`logging`.
        outcome: One short word, or two.
        detail: Why, or whose image.
    """
    times = " ".join(f"{stage}={seconds:.2f}s" for stage, seconds in stages.seconds.items())
    text = " ".join(part for part in ("image", image_id, outcome, times) if part)
    seconds = {stage: round(seconds, 3) for stage, seconds in stages.seconds.items()}
    extra = {"image": image_id, "outcome": outcome, "seconds": seconds}
    logger.log(level, "%s%s", text, f": {detail}" if detail else "", extra=extra)
