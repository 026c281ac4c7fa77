"""The Weaviate collection: created where absent, checked and completed where present."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from weavloader.errors import ConfigError, PermanentError
from weavloader.store.base import FILTER_PROPERTIES, KEYWORD_PROPERTIES, TEXT_PROPERTIES
from weavloader.store.checks import VectorRanks
from weavloader.store.weaviate_api import (
    Collection,
    CollectionConfig,
    Configure,
    DataType,
    Property,
    Tokenization,
    VectorDistances,
    WeaviateClient,
    exceptions,
)
from weavloader.store.weaviate_errors import store_errors

PROPERTIES = {
    **dict.fromkeys(TEXT_PROPERTIES, DataType.TEXT),
    **dict.fromkeys(("image", "audio", "video"), DataType.BLOB),
    "location": DataType.GEO_COORDINATES,
    "captured_at": DataType.DATE,
}
_BY_WORD = {*KEYWORD_PROPERTIES, *FILTER_PROPERTIES}
_RERANKER = "reranker-transformers"  # the only one that sends nothing to a third party


def prepare(client: WeaviateClient, name: str, ranks: VectorRanks) -> None:
    """Bring the collection to what is needed, whoever else does so at the same time.

    Args:
        ranks: The vectors that objects will carry.

    Raises:
        ConfigError: What exists would lose data or break search.
    """
    try:
        with store_errors():
            _create_if_absent(client, name, ranks)
            collection = client.collections.use(name)
            config = collection.config.get()
            _refuse(config, ranks)
            _complete(collection, config, ranks)
    except PermanentError as error:
        raise ConfigError(f"collection {name}: {error}", reason="store_schema") from error


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
        if not client.collections.exists(name):  # nobody else was faster: it was refused
            raise


def _complete(collection: Collection, config: CollectionConfig, ranks: VectorRanks) -> None:
    present = {each.name for each in config.properties}
    for name in PROPERTIES.keys() - present:
        _add_property(collection, name)
    for vector in ranks.keys() - (config.vector_config or {}).keys():
        collection.config.add_vector(vector_config=_vector(vector, ranks[vector]))


def _add_property(collection: Collection, name: str) -> None:
    try:
        collection.config.add_property(_property(name))
    except (exceptions.UnexpectedStatusCodeError, exceptions.WeaviateInvalidInputError):
        present = {each.name for each in collection.config.get().properties}
        if name not in present:  # nobody else was faster: it was refused
            raise


def _property(name: str) -> Property:
    kind = PROPERTIES[name]
    return Property(
        name=name,
        data_type=kind,
        index_range_filters=True if kind == DataType.DATE else None,
    )


def _vector(name: str, rank: int) -> Any:
    cosine = Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE)
    if rank == 2:
        return Configure.MultiVectors.self_provided(name=name, vector_index_config=cosine)
    return Configure.Vectors.self_provided(name=name, vector_index_config=cosine)


def _refuse(config: CollectionConfig, ranks: VectorRanks) -> None:
    problems = [*_property_problems(config), *_vector_problems(config, ranks)]
    if config.multi_tenancy_config.enabled:
        problems.append("it is split by tenants")
    if problems:
        message = f"collection {config.name} cannot be used: {'; '.join(problems)}"
        raise ConfigError(message, reason="store_schema")


def _property_problems(config: CollectionConfig) -> Iterator[str]:
    for each in config.properties:
        wanted = PROPERTIES.get(each.name, each.data_type)
        if each.data_type != wanted:
            yield f"{each.name} is {each.data_type.value}, not {wanted.value}"
        elif each.name in KEYWORD_PROPERTIES and not each.index_searchable:
            yield f"{each.name} is not searchable"
        elif each.name in FILTER_PROPERTIES and not each.index_filterable:
            yield f"{each.name} is not filterable"
        elif each.name in _BY_WORD and each.tokenization != Tokenization.WORD:
            yield f"{each.name} is not tokenized by word"


def _vector_problems(config: CollectionConfig, ranks: VectorRanks) -> Iterator[str]:
    present = config.vector_config or {}
    for name in ranks.keys() & present.keys():
        index = present[name].vector_index_config
        if index.distance_metric != VectorDistances.COSINE:
            yield f"vector {name} is not compared by cosine"
        several = getattr(index, "multi_vector", None) is not None
        if several != (ranks[name] == 2):
            yield f"vector {name} holds {'several vectors' if several else 'one vector'}"
