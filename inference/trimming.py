"""Captions without repetitions and without a sentence that was cut off.

Shared by the client and by the served models, for which this file lies beside ``serving``: Triton's
Python has nothing else of this package.
"""

from __future__ import annotations

import re
from collections import Counter

# A model that repeats itself does not stop at two.
_MAX_REPEATS = 2
# Signs and lists repeat shorter ones.
_MIN_REPEATED_CHARACTERS = 8
# No limit of tokens ends an answer that is shorter.
_MIN_CUT_CHARACTERS = 200
# A last sentence longer than the rest is worth more than a clean end.
_MIN_WHOLE = 0.5
_BOUNDARY = re.compile(r"""(?<=[.!?…])(?=\s)|(?<=[.!?…]["'”’)\]])(?=\s)|(?<=\S)(?=\n)""")
_WHOLE = re.compile(r"""[.!?…]["'”’)\]*]*\s*$""")
# The same words four times in a row.
_LOOP = re.compile(r"(\S[^\n]{10,120}?\s)\1{3,}")


def without_repetitions(text: str) -> str:
    """``text``, a sentence that comes more than twice kept where it comes first.

    So are the same words four times in a row, and the start of one more repetition is left out.
    """
    sentences = _BOUNDARY.split(text)
    times = Counter(map(_words, sentences))
    repeated = {
        words
        for words, amount in times.items()
        if amount > _MAX_REPEATS and len(words) >= _MIN_REPEATED_CHARACTERS
    }
    seen: set[str] = set()
    kept: list[str] = []
    for sentence in sentences:
        words = _words(sentence)
        if words not in seen:
            kept.append(sentence)
        if words in repeated:
            seen.add(words)
    if repeated and not _WHOLE.search(kept[-1]):
        # The start of one more repetition.
        last = _words(kept[-1])
        if any(words != last and words.startswith(last) for words in repeated):
            kept.pop()
    return _LOOP.sub(r"\1", "".join(kept)).strip()


def whole_sentences(text: str, limit: int, *, is_cut_off: bool = False) -> str:
    """``text`` up to the end of its last whole sentence, if it was cut off in the middle of one.

    Args:
        limit: The most characters of the result.
        is_cut_off: That it ends in the middle is known. Else only a long text without an end,
            that is no list, is taken for one that was cut off.
    """
    bounded = text[:limit]
    if len(text) <= limit and (_WHOLE.search(text) or not (is_cut_off or _looks_cut_off(text))):
        return text
    sentences = _BOUNDARY.split(bounded)
    while sentences and not _WHOLE.search(sentences[-1]):
        sentences.pop()
    whole = "".join(sentences).strip()
    return whole if len(whole) >= _MIN_WHOLE * len(bounded) else bounded


def _looks_cut_off(text: str) -> bool:
    """Of a text without an end."""
    return len(text) >= _MIN_CUT_CHARACTERS and not _is_list(text)


def _is_list(text: str) -> bool:
    """Whether its lines end without a full stop."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and not _WHOLE.search(lines[-2])


def _words(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence)).casefold()
