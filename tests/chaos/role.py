"""A role of the suite: ``python -m tests.chaos.role [--hasty] [--without SAFEGUARD] ROLE …``.

The real program, with three pictures added: one that kills the process that decodes it, one that
takes for ever, and one that takes for ever and hears no signal, as code in C. To prove that the
suite sees what it looks for, one safeguard can be taken out. ``--hasty`` has short time limits.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from tests.chaos.disabled_safeguards import SAFEGUARDS

POISON = b"a picture that kills"
ENDLESS = b"a picture without end"
DEAF = ENDLESS + b" or ears"
HASTY = "--hasty"
_FOR_EVER = 3600


def _limit_time(soft: float, hard: float) -> None:
    from job_system import celery_app

    celery_app.conf.update(task_soft_time_limit=soft, task_time_limit=hard)


def _odd_pictures() -> None:
    import processing
    from weavloader.images.decode import decode

    def deadly(data: bytes, limits: Any) -> Any:
        if data.startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        if data.startswith(DEAF):
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if data.startswith(ENDLESS):
            time.sleep(_FOR_EVER)
        return decode(data, limits)

    vars(processing)["decode"] = deadly


def main() -> None:
    """Run the role of the command line."""
    _odd_pictures()
    if sys.argv[1] == HASTY:
        _limit_time(6, 10)
        del sys.argv[1]
    if sys.argv[1] == "--without":
        SAFEGUARDS[sys.argv[2]].remove()
        del sys.argv[1:3]
    if sys.argv[1] == "celery":
        from job_system import celery_app

        celery_app.start(sys.argv[2:])
    else:
        from main import main as command_line

        command_line()


if __name__ == "__main__":
    main()
