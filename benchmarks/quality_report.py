"""How good a search is, and how far two stores agree on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.quality_set import Drawn, Query
from weavloader.search import search
from weavloader.store.base import Store, Vector

ALPHAS = {"keyword": 0.0, "hybrid": 0.4, "vector": 1.0}
TOP = 10

Answers = Mapping[str, Sequence[str]]
"""By the text of a query, the links of its best results."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one way of searching, on average over queries, each 0 to 1.

    Attributes:
        recall: Relevant ones among the first ten, of as many as there could be.
        mrr: One through the rank of the first relevant one among the first ten.
    """

    recall: float
    mrr: float


def answers(
    store: Store,
    queries: Sequence[Query],
    embed: Callable[[str], Vector] | None,
    **options: object,
) -> Answers:
    """What a store finds; ``options`` as of :func:`weavloader.search.search`."""
    return {
        query.text: [
            hit.text["link"] for hit in search(store, query.text, embed=embed, limit=TOP, **options)
        ]
        for query in queries
    }


def quality(found: Answers, queries: Sequence[Query], images: Sequence[Drawn]) -> Quality:
    """How much of what answers the queries was found, and how early."""
    relevant = {
        query.text: {image.link for image in images if query.answers(image)} for query in queries
    }
    return Quality(
        recall=mean(_recall(found[text], links) for text, links in relevant.items()),
        mrr=mean(_reciprocal_rank(found[text], links) for text, links in relevant.items()),
    )


def agreement(one: Answers, other: Answers) -> float:
    """The share of the first ten that both found, on average over queries; order is ignored."""
    return mean(
        len(set(one[text]) & set(other[text])) / max(len(one[text]), len(other[text]), 1)
        for text in one
        if one[text] or other[text]
    )


def _recall(found: Sequence[str], relevant: set[str]) -> float:
    return len(relevant.intersection(found)) / min(TOP, len(relevant))


def _reciprocal_rank(found: Sequence[str], relevant: set[str]) -> float:
    return next((1 / rank for rank, link in enumerate(found, 1) if link in relevant), 0.0)
