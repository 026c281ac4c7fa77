"""Ranking as Weaviate does it: words of a text, and keyword and vector scores combined.

Source of the formulas: Weaviate, "hybrid search", rankedFusion and relativeScoreFusion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from weavloader.geo import Area, Location, distance_km
from weavloader.store.base import Explanation, Filters, Fusion, ScorePart

MIN_CANDIDATES = 100
_RANK_CONSTANT = 60
_SAME_SCORE_DIGITS = 7
Scores = Mapping[int, float]
"""Scores by image number, best first; higher is better."""
# Lucene's English stop words, which Weaviate's preset ``en`` excludes from keyword search.
_STOPWORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then"
    " there these they this to was will with".split()
)
_WORD = re.compile(r"[^\W_]+")
MAX_WORDS = 64


@dataclass(frozen=True, slots=True)
class Fused:
    """A fused score and its parts."""

    score: float
    explanation: Explanation

    @property
    def tie_break(self) -> float:
        """Orders equal fused scores: the keyword score if there is one, else the vector score."""
        part = self.explanation.keyword or self.explanation.vector
        return part.score or 0.0 if part else 0.0


def candidates(wanted: int) -> int:
    """Number of candidates that each search contributes."""
    return max(MIN_CANDIDATES, wanted)


def fuse(keyword: Scores, vector: Scores, alpha: float, fusion: Fusion) -> dict[int, Fused]:
    """Fuse keyword and vector scores, unordered; an image that only one search found gets
    nothing from the other."""
    parts = _relative if fusion == "relative" else _ranked
    by_keyword, by_vector = parts(keyword, 1 - alpha), parts(vector, alpha)
    return {
        number: _fused(by_keyword.get(number), by_vector.get(number))
        for number in by_keyword.keys() | by_vector.keys()
    }


def best_first(fused: Mapping[int, Fused], ids: Mapping[int, str]) -> list[int]:
    """Image numbers, best first; equal scores by :attr:`Fused.tie_break`, then by id."""

    def key(number: int) -> tuple[float, float, str]:
        hit = fused[number]
        return -round(hit.score, _SAME_SCORE_DIGITS), -hit.tie_break, ids[number]

    return sorted(fused, key=key)


def autocut(scores: list[float], falls: int) -> int:
    """Number of results to keep, up to the ``falls``-th steep fall of the score.

    A steep fall is a local maximum of the distance between the normalized score curve and the
    diagonal. Source: Weaviate, "autocut".

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


def _fused(keyword: ScorePart | None, vector: ScorePart | None) -> Fused:
    score = sum(part.contribution for part in (keyword, vector) if part)
    return Fused(score, Explanation(keyword, vector))


def _relative(scores: Scores, weight: float) -> dict[int, ScorePart]:
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {
        number: ScorePart(weight * ((score - low) / (high - low) if high > low else 1.0), score)
        for number, score in scores.items()
    }


def _ranked(scores: Scores, weight: float) -> dict[int, ScorePart]:
    return {
        number: ScorePart(weight / (rank + _RANK_CONSTANT), score)
        for rank, (number, score) in enumerate(scores.items())
    }


def tokenize(text: str) -> list[str]:
    """The distinct words of a text in lower case, without stop words.

    Any character other than a letter or a digit separates words. Only the first 10,000
    characters are read, and at most 64 words are returned.
    """
    found = dict.fromkeys(words(text[:10_000]))
    return [word for word in found if word not in _STOPWORDS][:MAX_WORDS]


def words(text: str) -> list[str]:
    """All words of a text in lower case."""
    return _WORD.findall(text.lower())


def same_text(one: str, other: str) -> bool:
    """Whether both are equal, ignoring case."""
    return fold(one) == fold(other)


def passes(
    filters: Filters,
    value_of: Callable[[str], str],
    captured_at: datetime | None,
    location: Location | None,
) -> bool:
    """Whether an image meets the conditions of filters.

    Args:
        value_of: Gives what a text filter of a name compares.
    """
    if filters.near is not None and not lies_within(filters.near, location):
        return False
    if (filters.since or filters.until) and (
        captured_at is None or not lies_between(captured_at, filters.since, filters.until)
    ):
        return False
    return all(same_text(value_of(name), value) for name, value in filters.text().items())


def lies_between(moment: datetime, first: datetime | None, last: datetime | None) -> bool:
    """Whether a moment lies between two, which belong to the range."""
    return not (first and moment < first) and not (last and moment > last)


def lies_within(area: Area, place: Location | None) -> bool:
    """Whether a place lies in an area."""
    return place is not None and distance_km(area.center, place) <= area.kilometres


def fold(text: str) -> str:
    """The case-folded form used for comparison."""
    return text.casefold()
