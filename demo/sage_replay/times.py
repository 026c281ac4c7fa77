"""Moments to the nanosecond, as SAGE writes them."""

from datetime import UTC, datetime

from demo.sage_replay.catalogue import SECOND


def rfc3339(at: int) -> str:
    """A moment (nanoseconds since the epoch) with nine decimals, UTC."""
    whole = datetime.fromtimestamp(at // SECOND, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at % SECOND:09d}Z"
