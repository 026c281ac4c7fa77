"""``python -m metrics``: the metrics and health server on its own."""

from __future__ import annotations

import sys

from metrics.server import serve
from weavloader.errors import ConfigError
from weavloader.logs import configure_logging, mask, printable
from weavloader.settings import get_settings
from weavloader.shutdown import end_on_signal

BAD_INPUT = 2


def main() -> int:
    """Serve until told to stop.

    Returns:
        The exit code: 2 where a setting is wrong.
    """
    end_on_signal()
    try:
        settings = get_settings()
        configure_logging("METRICS", settings)
        serve(settings)
    except ConfigError as error:
        print(f"weavloader: {printable(mask(str(error)))}", file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
