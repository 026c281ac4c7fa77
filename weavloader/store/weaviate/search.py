"""Hybrid search in Weaviate, and search by area.

Weaviate's geo index is a graph of neighbours. When many objects share a point, it slows down
every write and finds only some of them; and nodes do not move, so thousands of images share a
point. Therefore latitude and longitude are also stored as numbers, and ``location`` is not
indexed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import and_
from typing import Any

from weavloader.geo import KM_PER_DEGREE, Area
from weavloader.store.base import (
    FILTER_PROPERTIES,
    Explanation,
    Filters,
    Fusion,
    ScorePart,
    SearchQuery,
    SearchResult,
)
from weavloader.store.ranking import autocut, passes, tokenize
from weavloader.store.tally import Tally
from weavloader.store.validation import MAX_RESULTS
from weavloader.store.weaviate.client import (
    Collection,
    Filter,
    FilterReturn,
    GeoCoordinate,
    HybridFusion,
    MetadataQuery,
    Rerank,
    Sort,
)
from weavloader.store.weaviate.objects import MAX_MATCHES, STORED_PROPERTIES, to_result

_FUSIONS: Mapping[Fusion, HybridFusion] = {
    "relative": HybridFusion.RELATIVE_SCORE,
    "ranked": HybridFusion.RANKED,
}
# A line of ``explainScore`` of a hybrid search, as of Weaviate 1.38.
_NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"
_LINE = re.compile(
    rf"\(Result Set (?P<search>keyword|vector)\b[^)]*\) Document \S+?"
    rf"(?:: original score (?P<score>{_NUMBER}), normalized score: | contributed )"
    rf"(?P<contribution>{_NUMBER})"
)
_COUNTED = [
    *FILTER_PROPERTIES,
    *("timestamp", "captured_at", "latitude", "longitude", "location", "provenance"),
]
_COUNTED_AT_ONCE = 1000
_ROUNDING = 1e-6  # degrees; 11 cm
_WEST, _EAST = -180.0, 180.0
_LIMIT_AFTER_SHORT_ANSWER = 1000  # more than the objects that were written at the time of a kill


def hybrid(collection: Collection, query: SearchQuery) -> list[SearchResult]:
    """Answer a validated query.

    Weaviate's text filters match words in any order and among others, and the filter by area
    matches a bounding box. So results are filtered again here, and the search is repeated with a
    higher limit until there are enough. Offset and autocut are applied here too, because the
    server would count the excluded results.
    """
    wanted = query.offset + query.limit
    checked = query.filters
    if query.brief and not (checked.text() or checked.near):
        checked = Filters()  # the server's filters by time are exact
    elif query.brief:
        query = replace(query, brief=False)
    hits = _fetch_enough(lambda limit: _query(collection, query, limit), wanted, checked)
    kept = autocut([hit.score for hit in hits], query.autocut)
    return hits[query.offset : kept]


def complete(collection: Collection, results: Sequence[SearchResult]) -> list[SearchResult]:
    """The results of a brief search with their properties; those that are gone are omitted."""
    lacking = [result.id for result in results if not result.text]
    if not lacking:
        return list(results)
    answer = collection.query.fetch_objects(
        filters=Filter.by_id().contains_any(lacking),
        limit=MAX_MATCHES,  # entries without an object, which a kill leaves, count too
        return_properties=[name for name in STORED_PROPERTIES if name != "image"],
    )
    known = {str(hit.uuid): hit.properties for hit in answer.objects}
    return [
        replace(
            to_result(result.id, result.score, known[result.id]),
            explanation=result.explanation,
            rerank_score=result.rerank_score,
        )
        if result.id in known
        else result
        for result in results
        if result.text or result.id in known
    ]


def newest(
    collection: Collection, filters: Filters, limit: int, offset: int, oldest_first: bool
) -> list[SearchResult]:
    """Images by time of capture, newest first."""

    def fetch(limit: int) -> list[SearchResult]:
        answer = collection.query.fetch_objects(
            limit=limit,
            filters=to_filter(collection, filters),
            sort=Sort.by_property("captured_at", ascending=oldest_first),
        )
        return [to_result(str(hit.uuid), 0.0, hit.properties) for hit in answer.objects]

    return _fetch_enough(fetch, offset + limit, filters)[offset:]


def tally(collection: Collection, filters: Filters) -> Tally:
    """Count the images that match.

    The server's own aggregation reads every object that matches as well, once for each property
    that is grouped by, and it matches words and boxes. So the few properties are read once, and
    counted here: exact, and no slower.
    """
    found = _all_matches(collection, filters)
    return Tally.of(result for result in found if _matches(result, filters))


def _all_matches(collection: Collection, filters: Filters) -> Iterator[SearchResult]:
    """What may match, with the properties that are filtered by and counted alone."""
    asked = to_filter(collection, filters)
    if asked is not None:
        answer = collection.query.fetch_objects(
            filters=asked, limit=MAX_MATCHES, return_properties=_COUNTED
        )
        if len(answer.objects) < MAX_MATCHES:
            yield from (to_result(str(hit.uuid), 0.0, hit.properties) for hit in answer.objects)
            return
    after = None
    while page := collection.query.fetch_objects(
        after=after, limit=_COUNTED_AT_ONCE, return_properties=_COUNTED
    ).objects:
        yield from (to_result(str(hit.uuid), 0.0, hit.properties) for hit in page)
        after = page[-1].uuid


def _fetch_enough(
    fetch: Callable[[int], list[SearchResult]], wanted: int, filters: Filters
) -> list[SearchResult]:
    """Results up to the number wanted, with a higher limit until there are enough.

    After a kill, the server's index may have entries without an object. They count towards the
    limit, so an answer shorter than the limit is complete only if a much higher one adds nothing.
    """
    limit, before = wanted, -1
    while True:
        hits = fetch(limit)
        matches = [hit for hit in hits if _matches(hit, filters)]
        is_complete = len(hits) < limit and len(hits) == before
        if len(matches) >= wanted or is_complete or limit == MAX_RESULTS:
            return matches[:wanted]
        least = _LIMIT_AFTER_SHORT_ANSWER if len(hits) < limit else 0
        limit, before = min(max(limit * 4, least), MAX_RESULTS), len(hits)


def _query(collection: Collection, query: SearchQuery, limit: int) -> list[SearchResult]:
    text = " ".join(tokenize(query.text))
    vector = None if query.alpha == 0 else query.vector
    if not text and vector is None:
        return []
    answer = collection.query.hybrid(
        text,
        alpha=0 if vector is None else query.alpha,
        vector=None if vector is None else {query.vector_name: vector.tolist()},
        target_vector=query.vector_name,
        query_properties=list(query.properties),
        fusion_type=_FUSIONS[query.fusion],
        limit=limit,
        filters=to_filter(collection, query.filters),
        rerank=Rerank(prop="caption", query=query.text) if query.rerank else None,
        # An object is read from the disk as a whole, with its picture, if any of it is wanted.
        return_properties=not query.brief,
        return_metadata=MetadataQuery(score=True, explain_score=query.explain),
    )
    return [_result(hit, query) for hit in answer.objects]


def _result(hit: Any, query: SearchQuery) -> SearchResult:
    score = float(hit.metadata.score or 0.0)
    if query.brief:
        result = SearchResult(str(hit.uuid), score, {}, None, None)
    else:
        result = to_result(str(hit.uuid), score, hit.properties)
    if query.explain:
        rank = 1 if query.vector is None else query.vector.ndim
        explanation = _explanation(hit.metadata.explain_score or "", rank)
        result = replace(result, explanation=explanation)
    return replace(result, rerank_score=hit.metadata.rerank_score if query.rerank else None)


def to_filter(collection: Collection, filters: Filters) -> FilterReturn | None:
    """The server's filter, which may match more than these filters; ``None`` for any object."""
    parts: list[FilterReturn] = [
        Filter.by_property(name).equal(value)
        for name, value in filters.text().items()
        if tokenize(value)  # Weaviate rejects a filter without a word
    ]
    if filters.since is not None:
        parts.append(Filter.by_property("captured_at").greater_or_equal(filters.since))
    if filters.until is not None:
        parts.append(Filter.by_property("captured_at").less_or_equal(filters.until))
    if filters.near is not None:
        parts.append(around(collection, filters.near))
    return reduce(and_, parts) if parts else None


def _matches(hit: SearchResult, filters: Filters) -> bool:
    return passes(filters, hit.filterable, hit.captured_at, hit.location)


def _explanation(text: str, rank: int) -> Explanation:
    """Parse ``explainScore``; ranked fusion omits the score before fusion. Anything that cannot
    be parsed is omitted.

    Args:
        rank: Rank of the query's vector.
    """
    parts = {match["search"]: match for match in _LINE.finditer(text)}
    # The server reports 1 - distance, and the distance of multi-vectors is minus the sum of
    # cosines.
    surplus = 1 if rank == 2 else 0
    return Explanation(
        _score_part(parts.get("keyword"), 0), _score_part(parts.get("vector"), surplus)
    )


def _score_part(match: re.Match[str] | None, surplus: float) -> ScorePart | None:
    if match is None:
        return None
    score = None if match["score"] is None else float(match["score"]) - surplus
    return ScorePart(float(match["contribution"]), score)


def around(collection: Collection, area: Area) -> FilterReturn:
    """A filter that matches an area and some of its surroundings: see ``lies_within``.

    Images stored by the reference deployment lack the numbers. Its collections have the geo
    index, so the filter includes it there.
    """
    indexed = {each.name: each.index_filterable for each in collection.config.get().properties}
    if not indexed.get("location"):
        return _in_boxes(area)
    if "latitude" not in indexed:
        return _by_index(area)
    return Filter.any_of([_in_boxes(area), _by_index(area)])


def _in_boxes(area: Area) -> FilterReturn:
    degrees = area.kilometres / KM_PER_DEGREE + _ROUNDING
    south, north = area.center.latitude - degrees, area.center.latitude + degrees
    across = [_between("longitude", west, east) for west, east in _longitudes(area, degrees)]
    return _between("latitude", south, north) & Filter.any_of(across)


def _longitudes(area: Area, degrees: float) -> list[tuple[float, float]]:
    """Ranges from west to east, two if the area crosses the antimeridian."""
    here = area.center
    if abs(here.latitude) + degrees >= 90:  # every longitude at a pole
        return [(_WEST, _EAST)]
    ratio = math.sin(math.radians(degrees)) / math.cos(math.radians(here.latitude))
    half = math.degrees(math.asin(ratio)) + _ROUNDING
    west, east = here.longitude - half, here.longitude + half
    if west < _WEST:
        return [(_WEST, east), (west + 360, _EAST)]
    if east > _EAST:
        return [(west, _EAST), (_WEST, east - 360)]
    return [(west, east)]


def _between(name: str, low: float, high: float) -> FilterReturn:
    number = Filter.by_property(name)
    return number.greater_or_equal(low) & number.less_or_equal(high)


def _by_index(area: Area) -> FilterReturn:
    here, metres = area.center, area.kilometres * 1000
    point = GeoCoordinate(latitude=here.latitude, longitude=here.longitude)
    return Filter.by_property("location").within_geo_range(coordinate=point, distance=metres)
