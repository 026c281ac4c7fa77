"""A role as the suite runs it: ``python -m tests.chaos.role [--without SAFEGUARD] ROLE …``.

The real program, with one thing added: a picture that kills the process that decodes it. To
prove that the suite sees what it looks for, one safeguard can be taken out.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tests.chaos.sabotage import SAFEGUARDS

POISON = b"a picture that kills"


def _poison_decoding() -> None:
    import processing
    from weavloader.picture import decode

    def deadly(data: bytes, **limits: Any) -> Any:
        if data.startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(data, **limits)

    vars(processing)["decode"] = deadly


def main() -> None:
    """Run the role of the command line."""
    if sys.argv[1] == "--without":
        SAFEGUARDS[sys.argv[2]]()
        del sys.argv[1:3]
    _poison_decoding()
    if sys.argv[1] == "celery":
        from job_system import celery_app

        celery_app.start(sys.argv[2:])
    else:
        from main import main as command_line

        command_line()


if __name__ == "__main__":
    main()
