"""Weaviate's own words on how a score came about, taken apart."""

from __future__ import annotations

import re

from weavloader.store.base import Explanation, Share

_NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"
_LINE = re.compile(
    rf"\(Result Set (?P<half>keyword|vector)\b[^)]*\) Document \S+?"
    rf"(?:: original score (?P<score>{_NUMBER}), normalized score: | contributed )"
    rf"(?P<share>{_NUMBER})"
)


def read_explanation(text: str, rank: int) -> Explanation:
    """What ``explainScore`` of a hybrid search says of either half, as of Weaviate 1.38.

    Ranked fusion does not tell a half's own score. What cannot be read is left out.

    Args:
        rank: Of the query's vector.
    """
    halves = {match["half"]: match for match in _LINE.finditer(text)}
    # The server counts 1 - distance, which for several vectors is minus the sum of cosines.
    surplus = 1 if rank == 2 else 0
    return Explanation(_share(halves.get("keyword"), 0), _share(halves.get("vector"), surplus))


def _share(match: re.Match[str] | None, surplus: float) -> Share | None:
    if match is None:
        return None
    score = match["score"]
    return Share(float(match["share"]), None if score is None else float(score) - surplus)
