"""Captions fit to keep: without repetitions, and ending with a whole sentence."""

from __future__ import annotations

import logging
import re
from collections import Counter

from inference.model_config import model_config
from metrics import metrics

logger = logging.getLogger(__name__)

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


def tidy_caption(text: str) -> str:
    """``text`` without repetitions, and without a last sentence that was cut off.

    A sentence that comes more than twice is kept where it comes first. A text that ends in the
    middle of a sentence, as at a limit of tokens, ends with the sentence before. What is trimmed
    is logged and counted.

    Returns:
        At most ``CAPTION_MAX_CHARACTERS`` characters.
    """
    limit = model_config().caption_max_characters
    # Bounds the search for repetitions.
    start = text[: 2 * limit]
    once = _without_repetitions(start)
    if once != start:
        _note("repeated", len(text), len(once))
    whole = _whole_sentences(once, limit)
    if whole != once:
        _note("cut_off", len(once), len(whole))
    return whole


def _note(cause: str, before: int, after: int) -> None:
    metrics.count_trimmed(cause)
    logger.info("caption trimmed from %d to %d characters: %s", before, after, cause)


def _without_repetitions(text: str) -> str:
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


def _whole_sentences(text: str, limit: int) -> str:
    is_too_long = len(text) > limit
    bounded = text[:limit]
    if not is_too_long and (
        len(text) < _MIN_CUT_CHARACTERS or _WHOLE.search(text) or _is_list(text)
    ):
        return text
    sentences = _BOUNDARY.split(bounded)
    while sentences and not _WHOLE.search(sentences[-1]):
        sentences.pop()
    whole = "".join(sentences).strip()
    return whole if len(whole) >= _MIN_WHOLE * len(bounded) else bounded


def _is_list(text: str) -> bool:
    """Whether its lines end without a full stop."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and not _WHOLE.search(lines[-2])


def _words(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence)).casefold()
