"""Text for a person's terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text on one line that cannot steer the terminal it is shown on."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def duration(seconds: float) -> str:
    """A stretch of time in its two largest units, such as ``3d 4h``, ``5m 10s`` or ``8s``."""
    rest, parts = max(0, int(seconds)), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        if amount:
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2]) or "0s"
