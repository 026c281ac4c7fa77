"""How text becomes words, the same in every store: Weaviate's ``word`` tokenization."""

from __future__ import annotations

import re

# Lucene's English stop words, which Weaviate's preset ``en`` leaves out of a keyword search.
_STOPWORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then"
    " there these they this to was will with".split()
)
_WORD = re.compile(r"[^\W_]+")
MOST_WORDS = 64


def words(text: str) -> list[str]:
    """The distinct words worth searching for, in lower case; at most 64, of the first 10,000
    characters. Whatever is not a letter or a digit separates them."""
    found = dict.fromkeys(_WORD.findall(text[:10_000].lower()))
    return [word for word in found if word not in _STOPWORDS][:MOST_WORDS]


def same_text(one: str, other: str) -> bool:
    """Whether both read the same without regard to case."""
    return fold(one) == fold(other)


def fold(text: str) -> str:
    """The form in which names are compared."""
    return text.casefold()
