"""Special tokens, such as the end of a turn: they are removed from requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def special_tokens(tokenizer: Any) -> set[str]:
    """The special tokens of a Hugging Face tokenizer."""
    added = {str(each) for each in tokenizer.added_tokens_decoder.values() if each.special}
    return added | set(tokenizer.all_special_tokens)


def stripper(tokens: set[str]) -> Callable[[str], str]:
    """A function that removes ``tokens`` from a text, until none is left."""
    longest_first = sorted(map(re.escape, tokens), key=len, reverse=True)
    pattern = re.compile("|".join(longest_first) or r"(?!)")

    def strip(text: str) -> str:
        found = 1
        while found:
            text, found = pattern.subn("", text)
        return text.strip()

    return strip
