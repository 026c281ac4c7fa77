"""Split text into words the same way in every store: Weaviate's ``word`` tokenization."""

from __future__ import annotations

import re

# Lucene's English stop words, which Weaviate's preset ``en`` excludes from keyword search.
_STOPWORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then"
    " there these they this to was will with".split()
)
_WORD = re.compile(r"[^\W_]+")
MAX_WORDS = 64


def tokenize(text: str) -> list[str]:
    """The distinct words of a text in lower case, without stop words.

    Any character other than a letter or a digit separates words. Only the first 10,000
    characters are read, and at most 64 words are returned.
    """
    found = dict.fromkeys(_WORD.findall(text[:10_000].lower()))
    return [word for word in found if word not in _STOPWORDS][:MAX_WORDS]


def same_text(one: str, other: str) -> bool:
    """Whether both are equal, ignoring case."""
    return fold(one) == fold(other)


def fold(text: str) -> str:
    """The case-folded form used for comparison."""
    return text.casefold()
