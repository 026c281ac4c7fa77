"""The Weaviate collection: create it if absent, otherwise check and complete it.

Objects of the reference deployment have the time of capture as a text alone, and the location as a
point alone, whose index is too slow to be used: see :mod:`weavloader.store.weaviate.search`. What
they lack is filled, so that filters and order find them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

from weavloader.errors import ConfigError, PermanentError, Reason
from weavloader.provenance import PREVIEW
from weavloader.store.base import (
    FILTER_PROPERTIES,
    KEYWORD_PROPERTIES,
    TEXT_PROPERTIES,
    MigrationReport,
    SchemaReport,
    VectorCounts,
)
from weavloader.store.validation import VectorRanks, check_previews
from weavloader.store.weaviate.client import (
    Collection,
    CollectionConfig,
    Configure,
    DataType,
    Filter,
    FilterReturn,
    Property,
    Tokenization,
    VectorDistances,
    WeaviateClient,
    exceptions,
    store_errors,
)
from weavloader.store.weaviate.objects import (
    captured_at_of,
    location_of,
    provenance_properties,
)

PROPERTIES = {
    **dict.fromkeys(TEXT_PROPERTIES, DataType.TEXT),
    **dict.fromkeys(("image", "audio", "video"), DataType.BLOB),
    "location": DataType.GEO_COORDINATES,
    **dict.fromkeys(("latitude", "longitude"), DataType.NUMBER),
    "captured_at": DataType.DATE,
    # Which model made the caption and each vector, as JSON; and what of it is filtered by.
    "provenance": DataType.TEXT,
    "caption_model": DataType.TEXT,
    "vector_models": DataType.TEXT_ARRAY,
    # No filter can see whether an object has an image. Unknown before this version.
    "image_bytes": DataType.INT,
}
_NAMES = {"caption_model", "vector_models"}
_WORD_TOKENIZED = {*KEYWORD_PROPERTIES, *FILTER_PROPERTIES}
_RERANKER = "reranker-transformers"  # the only one that sends no data to a third party
REMEDY = "name another collection in WEAVIATE_COLLECTION, or fix this one in Weaviate"
_SLOW_GEO_INDEX = (
    "location is indexed, which slows down writes when many images share a location:"
    " export them and import them into a collection of another name"
)
_UNDATED = "so filters by time do not find them: `python main.py schema migrate` fills it"
_UNATTRIBUTED = (
    "so no filter by model finds them: `python main.py schema migrate` fills it with `unknown`"
)
_ATTEMPTS = 5
_NO_INDEX_YET = "non-existing index"
_OBJECTS_PER_PAGE = 100
# An update is a request of its own, which the server answers in a few milliseconds.
_UPDATES_AT_ONCE = 8
_READ = ["timestamp", "captured_at", "location", "latitude", "longitude", "caption_model"]
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_OF_PREVIEWS = Filter.any_of(
    [
        Filter.by_property("caption_model").like(f"{PREVIEW}*"),
        Filter.by_property("vector_models").like(f"*={PREVIEW}*"),
    ]
)
_ATTRIBUTED = Filter.by_property("caption_model").like("*")


def prepare(client: WeaviateClient, name: str, ranks: VectorRanks, previews: bool) -> None:
    """Create or complete the collection; other processes may do so at the same time.

    Args:
        ranks: The vectors that objects will have.
        previews: Whether preview models caption its images.

    Raises:
        ConfigError: The existing collection would lose data or break search.
    """
    try:
        with store_errors():
            _create_if_absent(client, name, ranks)
            collection = client.collections.use(name)
            config = collection.config.get()
            _check(config, ranks)
            _complete(collection, config, ranks)
            check_previews(f"collection {name}", _holds_other(collection, previews), previews)
    except PermanentError as error:
        raise ConfigError(f"collection {name}: {error}", reason=Reason.STORE_SCHEMA) from error


def _holds_other(collection: Collection, previews: bool) -> bool:
    try:
        total = collection.aggregate.over_all(total_count=True).total_count or 0
        found = _count(collection, _OF_PREVIEWS)
    except exceptions.WeaviateQueryError as error:
        # Another process has just created the collection: the server knows it, but has no index of
        # it for some milliseconds, and so nothing in it. Seen with Weaviate 1.40.
        if _NO_INDEX_YET in str(error):
            return False
        raise
    return found < total if previews else found > 0


def _create_if_absent(client: WeaviateClient, name: str, ranks: VectorRanks) -> None:
    if client.collections.exists(name):
        return
    modules = client.get_meta().get("modules") or {}
    try:
        client.collections.create(
            name,
            properties=[_property(each) for each in PROPERTIES],
            vector_config=[_vector(vector, rank) for vector, rank in ranks.items()],
            reranker_config=Configure.Reranker.transformers() if _RERANKER in modules else None,
        )
    except exceptions.UnexpectedStatusCodeError:
        if not client.collections.exists(name):  # not created by another process: rejected
            raise


def report(client: WeaviateClient, name: str, ranks: VectorRanks) -> SchemaReport:
    """Describe the collection and what :func:`prepare` would change."""
    title = f"Weaviate collection {name}"
    with store_errors():
        if not client.collections.exists(name):
            return SchemaReport(title, missing=("the collection",))
        collection = client.collections.use(name)
        config = collection.config.get()
        advice = tuple(_advice(collection, config))
    return SchemaReport(
        title,
        fields=dict(_fields(config)),
        missing=(
            *_missing_properties(config),
            *(f"vector {vector}" for vector in _missing_vectors(config, ranks)),
        ),
        problems=tuple(_problems(config, ranks)),
        remedy=REMEDY,
        advice=advice,
    )


def _complete(collection: Collection, config: CollectionConfig, ranks: VectorRanks) -> None:
    def lacks(missing: Callable[[CollectionConfig], list[str]], name: str) -> bool:
        return name in missing(collection.config.get())

    for name in _missing_properties(config):
        add = partial(collection.config.add_property, _property(name))
        _add(add, partial(lacks, _missing_properties, name))
    vectors = partial(_missing_vectors, ranks=ranks)
    for name in vectors(config):
        add = partial(collection.config.add_vector, vector_config=_vector(name, ranks[name]))
        _add(add, partial(lacks, vectors, name))


def _add(add: Callable[[], object], still_missing: Callable[[], bool]) -> None:
    """Add something unless another process adds it; retry on conflicts.

    The client adds a vector by writing the whole schema back, which the server rejects if
    another process has added one in the meantime.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            add()
            return
        except (exceptions.UnexpectedStatusCodeError, exceptions.WeaviateInvalidInputError):
            if not still_missing():
                return
            if not attempts_left:
                raise


def _missing_properties(config: CollectionConfig) -> list[str]:
    present = {each.name for each in config.properties}
    return [name for name in PROPERTIES if name not in present]


def _missing_vectors(config: CollectionConfig, ranks: VectorRanks) -> list[str]:
    return [name for name in ranks if name not in (config.vector_config or {})]


def _property(name: str) -> Property:
    kind = PROPERTIES[name]
    # Weaviate's geo index is too slow: see weavloader.store.weaviate.search.
    unfiltered = kind in (DataType.GEO_COORDINATES, DataType.NUMBER) or name == "provenance"
    return Property(
        name=name,
        data_type=kind,
        index_filterable=False if unfiltered else None,
        index_searchable=False if name in {*_NAMES, "provenance"} else None,
        index_range_filters=True if kind in (DataType.DATE, DataType.NUMBER) else None,
        tokenization=Tokenization.LOWERCASE if name in _NAMES else None,
    )


def _vector(name: str, rank: int) -> Any:
    cosine = Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE)
    if rank == 2:
        return Configure.MultiVectors.self_provided(name=name, vector_index_config=cosine)
    return Configure.Vectors.self_provided(name=name, vector_index_config=cosine)


def _check(config: CollectionConfig, ranks: VectorRanks) -> None:
    if problems := _problems(config, ranks):
        message = f"collection {config.name} cannot be used: {'; '.join(problems)}: {REMEDY}"
        raise ConfigError(message, reason=Reason.STORE_SCHEMA)


def _problems(config: CollectionConfig, ranks: VectorRanks) -> list[str]:
    problems = [*_property_problems(config), *_vector_problems(config, ranks)]
    return [
        *problems,
        *(["multi-tenancy is enabled"] if config.multi_tenancy_config.enabled else []),
    ]


def _indexes_location(config: CollectionConfig) -> bool:
    return any(each.name == "location" and each.index_filterable for each in config.properties)


def _advice(collection: Collection, config: CollectionConfig) -> Iterator[str]:
    if _indexes_location(config):
        yield _SLOW_GEO_INDEX
    has_times = any(each.name == "captured_at" for each in config.properties)
    if has_times and (undated := count_undated(collection)):
        yield f"{undated:,} objects have no captured_at, {_UNDATED}"
    has_models = any(each.name == "caption_model" for each in config.properties)
    if has_models and (unattributed := _count_without(collection, _ATTRIBUTED)):
        yield f"{unattributed:,} objects have no caption_model, {_UNATTRIBUTED}"


def _fields(config: CollectionConfig) -> Iterator[tuple[str, str]]:
    for each in config.properties:
        uses = {
            "searchable": each.index_searchable,
            "filterable": each.index_filterable,
            "by range": each.index_range_filters,
        }
        enabled = (use for use, is_enabled in uses.items() if is_enabled)
        yield each.name, ", ".join((each.data_type.value, *enabled))
    for name, vector in (config.vector_config or {}).items():
        index = vector.vector_index_config
        kind = f"{index.vector_index_type()}, {index.distance_metric.value}"
        yield f"vector {name}", f"{kind}, multi-vector" if _is_multi_vector(index) else kind


def _is_multi_vector(index: Any) -> bool:
    return getattr(index, "multi_vector", None) is not None


def _property_problems(config: CollectionConfig) -> Iterator[str]:
    for each in config.properties:
        wanted = PROPERTIES.get(each.name, each.data_type)
        if each.data_type != wanted:
            yield f"{each.name} is {each.data_type.value}, not {wanted.value}"
        elif each.name in KEYWORD_PROPERTIES and not each.index_searchable:
            yield f"{each.name} is not searchable"
        elif each.name in FILTER_PROPERTIES and not each.index_filterable:
            yield f"{each.name} is not filterable"
        elif each.name in _WORD_TOKENIZED and each.tokenization != Tokenization.WORD:
            yield f"{each.name} is not tokenized by word"


def _vector_problems(config: CollectionConfig, ranks: VectorRanks) -> Iterator[str]:
    present = config.vector_config or {}
    for name in ranks.keys() & present.keys():
        index = present[name].vector_index_config
        if index.distance_metric != VectorDistances.COSINE:
            yield f"vector {name} does not use cosine distance"
        is_multi = _is_multi_vector(index)
        if is_multi != (ranks[name] == 2):
            yield f"vector {name} {'is' if is_multi else 'is not'} a multi-vector"


def count_undated(collection: Collection) -> int:
    """How many objects no filter by time finds; ``captured_at`` must be in the schema."""
    return _count_without(collection, Filter.by_property("captured_at").greater_or_equal(_FIRST))


def count_vectors(collection: Collection, names: Sequence[str]) -> VectorCounts:
    """How many objects have each of these vectors, and of how many it is not recorded."""
    vector = Filter.by_property("vector_models")
    return VectorCounts(
        total=collection.aggregate.over_all(total_count=True).total_count or 0,
        by_name={name: _count(collection, vector.like(f"{name}=*")) for name in names},
        unrecorded=_count_without(collection, _ATTRIBUTED),
    )


def _count(collection: Collection, wanted: FilterReturn) -> int:
    return collection.aggregate.over_all(filters=wanted, total_count=True).total_count or 0


def _count_without(collection: Collection, present: FilterReturn) -> int:
    total = collection.aggregate.over_all(total_count=True).total_count or 0
    return max(0, total - _count(collection, present))


def fill(
    collection: Collection, progress: Callable[[int, MigrationReport], None]
) -> MigrationReport:
    """Fill ``captured_at``, ``latitude`` and ``longitude`` of every object that lacks them, and
    say of objects without provenance that their models are unknown.

    Nothing else of an object changes. What is filled is skipped by a later run, so that one that
    was interrupted is continued.

    Args:
        progress: Called after each page with the number of objects that were read.
    """
    report, read, after = MigrationReport(), 0, ""
    with ThreadPoolExecutor(_UPDATES_AT_ONCE) as threads:
        while page := _page(collection, after):
            changes = {object_id: _changes(*each) for object_id, each in page.items()}
            lacking = {object_id: change for object_id, change in changes.items() if change}
            report.filled += sum(threads.map(partial(_update, collection), *_columns(lacking)))
            report.undated += sum(
                captured_at_of(properties) is None for properties, _ in page.values()
            )
            read, after = read + len(page), list(page)[-1]
            progress(read, report)
    return report


def _page(collection: Collection, after: str) -> dict[str, tuple[Mapping[str, Any], set[str]]]:
    """Properties of the next objects, and the names of their vectors, by id."""
    answer = collection.query.fetch_objects(
        after=after or None, limit=_OBJECTS_PER_PAGE, return_properties=_READ, include_vector=True
    )
    return {str(hit.uuid): (hit.properties, set(hit.vector)) for hit in answer.objects}


def _changes(properties: Mapping[str, Any], vectors: set[str]) -> dict[str, Any]:
    """What to add; no time where none can be read."""
    changes: dict[str, Any] = {}
    captured_at, place = captured_at_of(properties), location_of(properties)
    if properties.get("captured_at") is None and captured_at is not None:
        degrees = {"latitude": place.latitude, "longitude": place.longitude} if place else {}
        changes = {"captured_at": captured_at, **degrees}
    if not properties.get("caption_model"):
        changes |= provenance_properties({}, vectors)
    return changes


def _columns(changes: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    return list(changes), list(changes.values())


def _update(collection: Collection, object_id: str, changes: Mapping[str, Any]) -> bool:
    try:
        collection.data.update(object_id, properties=dict(changes))
    except exceptions.UnexpectedStatusCodeError as error:
        if error.status_code == HTTPStatus.NOT_FOUND:  # deleted meanwhile
            return False
        raise
    return True
