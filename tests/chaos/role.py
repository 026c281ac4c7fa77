"""A role as the suite runs it: ``python -m tests.chaos.role [--without SAFEGUARD] ROLE …``.

The real program, with two pictures added, one that kills the process that decodes it and one
that takes for ever, and with shorter time limits. To prove that the suite sees what it looks
for, one safeguard can be taken out.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from tests.chaos.sabotage import SAFEGUARDS

POISON = b"a picture that kills"
ENDLESS = b"a picture without end"
SOFT_LIMIT, HARD_LIMIT = 6, 10


def _limit_time() -> None:
    from job_system import config

    vars(config).update(SOFT_TIME_LIMIT=SOFT_LIMIT, TIME_LIMIT=HARD_LIMIT)


def _odd_pictures() -> None:
    import processing
    from weavloader.picture import decode

    def deadly(data: bytes, **limits: Any) -> Any:
        if data.startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        if data.startswith(ENDLESS):
            time.sleep(10 * HARD_LIMIT)
        return decode(data, **limits)

    vars(processing)["decode"] = deadly


def main() -> None:
    """Run the role of the command line."""
    _limit_time()
    _odd_pictures()
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
