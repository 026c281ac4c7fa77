"""Words that are signs to a model, such as the end of a turn: never taken from a request."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def special_tokens(tokenizer: Any) -> set[str]:
    """The signs of a tokenizer of Hugging Face's."""
    added = {str(each) for each in tokenizer.added_tokens_decoder.values() if each.special}
    return added | set(tokenizer.all_special_tokens)


def stripper(tokens: set[str]) -> Callable[[str], str]:
    """What takes ``tokens`` out of a text, also such as appear once others are gone."""
    longest_first = sorted(map(re.escape, tokens), key=len, reverse=True)
    pattern = re.compile("|".join(longest_first) or r"(?!)")

    def strip(text: str) -> str:
        found = 1
        while found:
            text, found = pattern.subn("", text)
        return text.strip()

    return strip
