"""Changes to bytes and to JSON, chosen by a generator of random numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

_MAX_CHANGES = 6
_SIZES = (1, 2, 3, 4, 8)
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_TEXTS = (
    "", " ", "\0", "\n", "\r\n\r\n", "\x1b[31m", "\u202eevil", "\ud800", "\ufeff", "é" * 300,
    "../../etc/passwd", "%s%s%n", "{{7*7}}", "<script>alert(1)</script>", "'; DROP TABLE images;--",
    "NaN", "null", "-0", "1e999", "9" * 5000, "x" * 70_000, "unknown", "\N{ZERO WIDTH JOINER}" * 9,
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-02-30T25:61:61Z",
    "2026-11-26T12:00:00+99:99", "1969-12-31T23:59:59-23:59", "http://[::1", "http://user@host/",
    "http://127.0.0.1:0/", "http://127.0.0.1:99999/x", "file:///etc/passwd", "//x", "ERROR in x",
)  # fmt: skip
_OTHERS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 2**31, -(2**31), 2**53, 2**63, 2**64, 10**400, 0.1, -0.0,
    1e308, 5e-324, float("nan"), float("inf"), float("-inf"), [], {}, [[]], {"": None},
)  # fmt: skip


def data(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds``, changed at a few places."""
    changed = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, _MAX_CHANGES)):
        rng.choice(_CHANGES)(rng, changed, rng.choice(seeds))
    return bytes(changed)


def value(rng: Random, seed: Any) -> Any:
    """A value as of JSON, with a few of its parts replaced, removed, added or repeated."""
    changed = [copy.deepcopy(seed)]
    for _ in range(rng.randint(1, _MAX_CHANGES)):
        _change_part(rng, changed)
    return changed[0]


def hostile(rng: Random) -> Any:
    """A value that a program may not expect."""
    if rng.random() < 0.02:
        return _nested(rng.choice((100, 400, 800)))
    return text(rng) if rng.random() < 0.6 else copy.deepcopy(rng.choice(_OTHERS))


def text(rng: Random) -> str:
    """A text that a program may not expect."""
    return rng.choice(_TEXTS)


def written(rng: Random, seed: Any) -> bytes:
    """JSON of a changed value; now and then some of its bytes are changed too."""
    if rng.random() < 0.005:
        return rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000))
    line = dumped(value(rng, seed), rng.random() < 0.5)
    return data(rng, [line]) if rng.random() < 0.2 else line


def dumped(what: Any, ensure_ascii: bool = True) -> bytes:
    """JSON in UTF-8, with half a surrogate pair where one is."""
    return json.dumps(what, ensure_ascii=ensure_ascii).encode("utf-8", errors="surrogatepass")


def _nested(depth: int) -> Any:
    found: Any = 0
    for _ in range(depth):
        found = [found]
    return found


def _change_part(rng: Random, root: list[Any]) -> None:
    holder, key = _place(rng, root)
    part = holder[key]
    choice = rng.random()
    if choice < 0.15 and holder is not root:
        del holder[key]
    elif choice < 0.3 and isinstance(holder, list) and holder is not root:
        holder.insert(key, hostile(rng) if isinstance(part, dict | list) else part)
    elif choice < 0.4 and isinstance(holder, dict):
        holder[rng.choice(_TEXTS)[:99]] = hostile(rng)
    elif choice < 0.6 and isinstance(part, str):
        at = rng.randint(0, len(part))
        holder[key] = part[:at] + rng.choice(_TEXTS) + part[at + rng.randint(0, 3) :]
    else:
        holder[key] = hostile(rng)


def _place(rng: Random, root: list[Any]) -> tuple[Any, Any]:
    holder: Any = root
    key: Any = 0
    while isinstance(inner := holder[key], dict | list) and inner and rng.random() < 0.85:
        holder, key = (
            inner,
            rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner))),
        )
    return holder, key


_Change = Callable[[Random, bytearray, bytes], None]


def _flip(rng: Random, changed: bytearray, _: bytes) -> None:
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)


def _overwrite(rng: Random, changed: bytearray, _: bytes) -> None:
    size, at = rng.choice(_SIZES), rng.randint(0, len(changed))
    number = rng.choice((rng.getrandbits(8 * size), rng.choice(_EDGES) % 256**size))
    changed[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))


def _cut(rng: Random, changed: bytearray, _: bytes) -> None:
    at = rng.randint(0, len(changed))
    del changed[at : at + rng.choice((1, 2, 8, 64, 1 << 30))]


def _repeat(rng: Random, changed: bytearray, _: bytes) -> None:
    at = rng.randint(0, len(changed))
    part = bytes(changed[at : at + rng.choice((1, 4, 32, 512))])
    changed[at:at] = part * rng.choice((1, 2, 20))


def _insert(rng: Random, changed: bytearray, _: bytes) -> None:
    at = rng.randint(0, len(changed))
    changed[at:at] = rng.randbytes(rng.choice(_SIZES))


def _splice(rng: Random, changed: bytearray, other: bytes) -> None:
    at = rng.randint(0, len(changed))
    start = rng.randint(0, len(other))
    size = rng.choice((4, 64, 1 << 30))
    changed[at : at + size] = other[start : start + size]


_CHANGES: tuple[_Change, ...] = (
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _cut,
    _repeat,
    _insert,
    _splice,
)
