"""Collections as the stand-in describes them: what was asked for, with the server's defaults."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

Schema = dict[str, Any]

_HNSW = {
    "distance": "cosine",
    "cleanupIntervalSeconds": 300,
    "dynamicEfFactor": 8,
    "dynamicEfMax": 500,
    "dynamicEfMin": 100,
    "ef": -1,
    "efConstruction": 128,
    "filterStrategy": "acorn",
    "flatSearchCutoff": 40000,
    "maxConnections": 32,
    "multivector": {"enabled": False, "aggregation": "maxSim"},
    "skip": False,
    "vectorCacheMaxObjects": 1_000_000_000_000,
}
_PQ = {
    "bitCompression": False,
    "centroids": 256,
    "encoder": {"distribution": "log-normal", "type": "kmeans"},
    "segments": 0,
    "trainingLimit": 100_000,
}
_COLLECTION = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"additions": None, "preset": "en", "removals": None},
    },
    "multiTenancyConfig": {"enabled": False},
    "replicationConfig": {"factor": 1, "deletionStrategy": "TimeBasedResolution"},
    "shardingConfig": {
        "actualCount": 1,
        "actualVirtualCount": 128,
        "desiredCount": 1,
        "desiredVirtualCount": 128,
        "function": "murmur3",
        "key": "_id",
        "strategy": "hash",
        "virtualPerPhysical": 128,
    },
}


class Refused(Exception):
    """What is asked for cannot be; the server says so with 422."""


def collection(asked: Schema) -> Schema:
    """A collection as it is created."""
    defaults = deepcopy(_COLLECTION)
    vectors = {name: _vector(given) for name, given in asked.get("vectorConfig", {}).items()}
    properties = [_property(given) for given in asked.get("properties") or []]
    return defaults | asked | {"properties": properties, "vectorConfig": vectors}


def add_property(described: Schema, asked: Schema) -> None:
    """Add a property to a collection."""
    if asked["name"] in {each["name"] for each in described["properties"]}:
        name, collection_name = asked["name"], described["class"]
        raise Refused(f'class "{collection_name}": conflict for property "{name}": already in use')
    described["properties"].append(_property(asked))


def add_vectors(described: Schema, asked: Schema) -> None:
    """Add the vectors that a collection does not have yet; all that it has must be given."""
    for name in described["vectorConfig"].keys() - asked.get("vectorConfig", {}).keys():
        raise Refused(f'parse class update: missing config for vector "{name}"')
    for name, given in asked.get("vectorConfig", {}).items():
        described["vectorConfig"].setdefault(name, _vector(given))


def data_type(described: Schema, name: str) -> str:
    """The type of a property; empty where there is none of this name."""
    types = {each["name"]: str(each["dataType"][0]) for each in described["properties"]}
    return types.get(name, "")


def _property(asked: Schema) -> Schema:
    text = asked["dataType"][0] == "text"
    defaults = {"indexFilterable": True, "indexSearchable": text, "indexRangeFilters": False}
    given = {name: value for name, value in asked.items() if value is not None}
    return defaults | ({"tokenization": "word"} if text else {}) | given


def _vector(asked: Schema) -> Schema:
    given = asked.get("vectorIndexConfig") or {}
    multi = _HNSW["multivector"] | {"enabled": "multivector" in given}  # type: ignore[operator]
    index = _HNSW | given | {"multivector": multi | (given.get("multivector") or {})}
    if "pq" in given:
        index["pq"] = _PQ | given["pq"] | {"encoder": _PQ["encoder"]}
    return asked | {"vectorIndexType": "hnsw", "vectorIndexConfig": index}
