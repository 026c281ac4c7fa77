"""Fusion of the two halves of a hybrid search, as Weaviate does it.

Source of the formulas: Weaviate, "hybrid search", rankedFusion and relativeScoreFusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weavloader.store.base import Explanation, Fusion, Share

LEAST_CANDIDATES = 100
_RANK_CONSTANT = 60
_SAME_SCORE_DIGITS = 7

Scores = Mapping[int, float]
"""By the number of an image, best first, higher is better."""


@dataclass(frozen=True, slots=True)
class Fused:
    """A score and how it came about."""

    score: float
    explanation: Explanation

    @property
    def tie_break(self) -> float:
        """What decides among equal scores, first: BM25, or without a word the cosine."""
        half = self.explanation.words or self.explanation.looks
        return half.score or 0.0 if half else 0.0


def candidates(wanted: int) -> int:
    """How many of its best each half brings."""
    return max(LEAST_CANDIDATES, wanted)


def fuse(words: Scores, looks: Scores, alpha: float, fusion: Fusion) -> dict[int, Fused]:
    """Both halves as one, unordered; what only one half found has nothing from the other."""
    shares = _relative if fusion == "relative" else _ranked
    by_words, by_looks = shares(words, 1 - alpha), shares(looks, alpha)
    return {
        number: _fused(by_words.get(number), by_looks.get(number))
        for number in by_words.keys() | by_looks.keys()
    }


def best_first(fused: Mapping[int, Fused], ids: Mapping[int, str]) -> list[int]:
    """The numbers of images in order; of equals, by :attr:`Fused.tie_break`, then by id."""

    def key(number: int) -> tuple[float, float, str]:
        hit = fused[number]
        return -round(hit.score, _SAME_SCORE_DIGITS), -hit.tie_break, ids[number]

    return sorted(fused, key=key)


def steep_falls(scores: list[float], falls: int) -> int:
    """How many results stand before the score has fallen steeply ``falls`` times.

    A fall is steep where the curve of scores, drawn from corner to corner of a square, turns
    back towards the diagonal after having left it. Source: Weaviate, "autocut".

    Args:
        scores: Best first.
        falls: 0 keeps all.
    """
    if falls == 0 or len(scores) < 3 or scores[0] == scores[-1]:
        return len(scores)
    steps, height = len(scores) - 1, scores[0] - scores[-1]
    above = [(scores[0] - score) / height - i / steps for i, score in enumerate(scores)]
    turns = [i for i in range(1, steps) if above[i] > above[i - 1] and above[i] > above[i + 1]]
    if above[-1] > max(above[-2], above[-3]):
        turns.append(steps)
    return turns[falls - 1] if len(turns) >= falls else len(scores)


def _fused(words: Share | None, looks: Share | None) -> Fused:
    score = sum(half.share for half in (words, looks) if half)
    return Fused(score, Explanation(words, looks))


def _relative(scores: Scores, weight: float) -> dict[int, Share]:
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {
        number: Share(weight * ((score - low) / (high - low) if high > low else 1.0), score)
        for number, score in scores.items()
    }


def _ranked(scores: Scores, weight: float) -> dict[int, Share]:
    return {
        number: Share(weight / (rank + _RANK_CONSTANT), score)
        for rank, (number, score) in enumerate(scores.items())
    }
