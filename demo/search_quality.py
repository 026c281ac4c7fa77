"""How well a search finds what is relevant: the ways of searching, and the measures.

Relevance is binary: rel(i) is 1 where result i is relevant, and R images are relevant in all.

- ``ndcg_10`` and ``ndcg_50``: DCG@k / IDCG@k, where DCG@k is the sum of rel(i) / log2(i + 1) over
  i = 1..k, and IDCG@k that of a search that finds min(k, R) relevant ones first. Järvelin and
  Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20(4), 2002, with the
  discount of Burges et al., Learning to rank using gradient descent, ICML 2005. INQUIRE computes it
  so too (``ndcg_at_k`` in its ``src/metrics.py``).
- ``recall_50``: relevant ones among the first 50, divided by R.
- ``precision_50``: relevant ones among the first 50, divided by the number of results, which is
  at most 50. ``imsearch_eval`` has recall and precision so (``evaluate_query`` in its
  ``framework/evaluator.py``).
- ``returned_ndcg``: the NDCG of ``imsearch_eval`` (``compute_ndcg`` there). Its IDCG is that of the
  50 results in their best order, so that what is not found costs nothing; and a result counts as
  relevant if its own row says so, whatever query that row is of.

A figure is the mean over the queries that have a relevant image.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from math import log2
from pathlib import Path
from statistics import mean
from typing import Any

from demo.judged_images import JudgedImages
from weavloader.errors import ConfigError, Reason
from weavloader.search import search
from weavloader.store.base import DEFAULT_ALPHA, Store, Vector

TOP, BEST = 50, 10
ALPHAS = (0.2, 0.4, 0.6, 0.8)
_COLUMNS = {
    "ndcg_10": "nDCG@10",
    "ndcg_50": "nDCG@50",
    "recall_50": "recall@50",
    "precision_50": "precision@50",
    "returned_ndcg": "NDCG*",
}
_NOTE = "* as imsearch_eval computes it: of the 50 results alone, whatever else is relevant"
# The columns of query_eval_metrics.csv that are figures, beside those that end in one of these.
_RESULT_FIGURES = ("precision", "recall", "accuracy", "hit", "diversity")
_RESULT_ENDINGS = ("NDCG", "reciprocal_rank")


@dataclass(frozen=True, slots=True)
class Way:
    """One way of searching.

    Attributes:
        vector: The name of the vector that it searches by.
        options: Of :func:`weavloader.search.search`.
    """

    name: str
    vector: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one query, or the mean of several, each 0 to 1; the module says what they are."""

    ndcg_10: float
    ndcg_50: float
    recall_50: float
    precision_50: float
    returned_ndcg: float

    @classmethod
    def mean(cls, each: Sequence[Figures]) -> Figures:
        """The mean over queries."""
        rows = [asdict(figures) for figures in each]
        return cls(**{name: mean(row[name] for row in rows) for name in rows[0]})


def ways(vectors: Sequence[str]) -> list[Way]:
    """The ways that are compared: all by the first vector, a few by the others."""
    first, *others = vectors
    found = [
        Way("text only", first, {"alpha": 0.0}),
        Way(f"vector only, {first}", first, {"alpha": 1.0}),
        *(Way(f"hybrid, alpha {alpha}", first, {"alpha": alpha}) for alpha in ALPHAS),
        Way(f"hybrid, alpha {DEFAULT_ALPHA}, ranked fusion", first, {"fusion": "ranked"}),
        Way(f"hybrid, alpha {DEFAULT_ALPHA}, reranked", first, {"rerank": True}),
    ]
    for name in others:
        found.append(Way(f"vector only, {name}", name, {"alpha": 1.0}))
        found.append(Way(f"hybrid, alpha {DEFAULT_ALPHA}, {name}", name, {}))
    return found


def measure(
    store: Store,
    judged: JudgedImages,
    names: Mapping[str, str],
    embed: Mapping[str, Callable[[str], Vector]],
    done: Callable[[int], None] = lambda searches: None,
) -> dict[str, dict[str, Figures]]:
    """Search for every query that has a relevant image, in every way.

    Args:
        names: The name of each stored image by its id.
        embed: By the name of a vector, what turns a query into one; the first is the main one.
        done: Told how many searches were made so far.

    Returns:
        By the name of a way, the figures of each query. A store without a reranker is not searched
        with one.

    Raises:
        TransientError: The store, or a model, is out of reach.
    """
    figures: dict[str, dict[str, Figures]] = {}
    embeds = {name: cache(embed[name]) for name in embed}
    for way in ways([*embed]):
        figures[way.name] = {}
        for query, relevant in judged.relevant.items():
            if not relevant:
                continue
            try:
                found = search(
                    store,
                    query,
                    embed=embeds[way.vector],
                    vector_name=way.vector,
                    limit=TOP,
                    **way.options,
                )
            except ConfigError as error:
                if error.reason is not Reason.NO_RERANKER:
                    raise
                del figures[way.name]
                break
            results = [names[result.id] for result in found]
            figures[way.name][query] = figures_of(results, relevant, judged.labels)
            done(sum(map(len, figures.values())))
    return figures


def figures_of(
    results: Sequence[str], relevant: frozenset[str], labels: Mapping[str, bool] | None = None
) -> Figures:
    """The figures of one query.

    Args:
        results: The names of images, best first.
        relevant: Those of all images that are relevant to the query; one at least.
        labels: As those of :class:`~demo.judged_images.JudgedImages`.
    """
    results = results[:TOP]
    gains = [image in relevant for image in results]
    labelled = [labels.get(image, False) for image in results] if labels else gains
    return Figures(
        ndcg_10=_dcg(gains[:BEST]) / _ideal_dcg(min(BEST, len(relevant))),
        ndcg_50=_dcg(gains) / _ideal_dcg(min(TOP, len(relevant))),
        recall_50=sum(gains) / len(relevant),
        precision_50=sum(gains) / len(results) if results else 0.0,
        returned_ndcg=_returned_ndcg(labelled),
    )


def _dcg(gains: Sequence[bool]) -> float:
    return sum(1 / log2(rank + 1) for rank, gain in enumerate(gains, 1) if gain)


def _ideal_dcg(relevant: int) -> float:
    return _dcg([True] * relevant)


def _returned_ndcg(gains: Sequence[bool]) -> float:
    if len(gains) < 2 or not any(gains):  # as imsearch_eval has it
        return 0.0
    return _dcg(gains) / _ideal_dcg(sum(gains))


def markdown(figures: Mapping[str, Any]) -> str:
    """The figures of a measurement as a table that people can read as it is."""
    models, store = ", ".join(figures["caption_models"]), figures["store"]
    images = f"{figures['images']:,} images, captions by {models}; store: {store}"
    lines = [f"{figures['queries']} queries, {images}"]
    if without := figures["queries_without_relevant_images"]:
        lines.append(f"{without} more queries have no relevant image and are skipped.")
    rows: list[Sequence[str]] = [("search", *_COLUMNS.values())]
    rows.append(("---", *("---:" for _ in _COLUMNS)))
    for way, each in figures["ways"].items():
        rows.append((way, *(f"{each[name]:.3f}" for name in _COLUMNS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = (" | ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join([*lines, "", *(f"| {row} |" for row in table), "", _NOTE]) + "\n"


def summarise_results(path: Path) -> dict[str, float]:
    """The mean over queries of what ``imsearch_eval`` wrote of each (``query_eval_metrics.csv``).

    Returns:
        ``queries``, their number, and the mean of each figure under its own name. Where a query has
        no value, such as the diversity of no result, the mean is that of the others.

    Raises:
        ConfigError: It is no such file; one line says why.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise _bad(f"{path} cannot be read: {error}") from error
    names = [each for each in columns if each in _RESULT_FIGURES or each.endswith(_RESULT_ENDINGS)]
    if "query" not in columns or "recall" not in names or not rows:
        wanted = "expected query, precision, recall and NDCG, as imsearch_eval writes them"
        raise _bad(f"{path.name} holds no results of queries: {wanted}")
    queries = [row["query"] for row in rows]
    if again := next((each for each in queries if queries.count(each) > 1), None):
        raise _bad(f"{path.name}: query {again!r} is there twice")
    means = {name: _mean(path, name, rows) for name in names}
    return {"queries": float(len(rows))} | {name: each for name, each in means.items() if each >= 0}


def _mean(path: Path, name: str, rows: Sequence[Mapping[str, str]]) -> float:
    """The mean of a column; -1 where no row has a value."""
    values = []
    for line, row in enumerate(rows, 2):
        try:
            value = float(row[name] or "nan")
        except (TypeError, ValueError):
            raise _bad(f"{path.name}, line {line}: {name} is {row[name]!r}, no number") from None
        if not math.isnan(value):
            values.append(value)
    return mean(values) if values else -1.0


def _bad(message: str) -> ConfigError:
    return ConfigError(message, reason=Reason.BAD_ARGUMENT)
