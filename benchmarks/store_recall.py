"""What Weaviate's HNSW index finds of the true neighbours, by its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import psutil
from weaviate.classes.config import Configure, DataType, Property, Reconfigure, VectorDistances

from benchmarks.store_load import percentiles, timed
from benchmarks.store_objects import Vectors
from weavloader.settings import Settings
from weavloader.store.weaviate.client import Collection, DataObject, WeaviateClient, connect

TOP = 10
BATCH = 500
NAME = "Recall"
_COMPRESSED_WITHIN = 300.0  # seconds
_Quantizer = Configure.VectorIndex.Quantizer
_Later = Reconfigure.VectorIndex.Quantizer

# By what a table calls it: how the graph is built, and how vectors are compressed.
BUILDS: Mapping[str, Mapping[str, Any]] = {
    "as created": {},
    "maxConnections 16": {"max_connections": 16},
    "maxConnections 64": {"max_connections": 64},
    "efConstruction 64": {"ef_construction": 64},
    "efConstruction 256": {"ef_construction": 256},
    "RQ, 8 bits": {"quantizer": _Quantizer.rq(bits=8)},
    "RQ, 1 bit": {"quantizer": _Quantizer.rq(bits=1)},
    "BQ": {"quantizer": _Quantizer.bq()},
}
# These learn from what is stored. Without ASYNC_INDEXING they do so only when they are asked for
# after it is: at creation they are taken, and nothing is ever compressed.
LEARNED: Mapping[str, Any] = {"SQ": _Later.sq(), "PQ": _Later.pq()}
# -1 is the server's own choice: 8 times the limit, at least 100.
EFS: Mapping[str, Sequence[int]] = {"as created": (16, 32, 64, -1, 256, 512)}


def measure_recall(
    settings: Settings, restart: Callable[[], psutil.Process], vectors: Vectors, asked: Vectors
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each build: seconds to build it, memory it took, and recall@10 by ``ef``.

    Args:
        restart: Starts the server again, so that nothing of the build before is in its memory.
    """
    truth = nearest(vectors, asked)
    for name in (*BUILDS, *LEARNED):
        server = restart()
        with closing(connect(settings)) as client:
            yield name, _measure(client, server, name, vectors, asked, truth)


def nearest(vectors: Vectors, asked: Vectors) -> list[set[int]]:
    """The true ten nearest of each query, by cosine; vectors are of unit length."""
    return [set(row) for row in np.argsort(-(asked @ vectors.T), axis=1)[:, :TOP].tolist()]


def _measure(
    client: WeaviateClient,
    server: psutil.Process,
    name: str,
    vectors: Vectors,
    asked: Vectors,
    truth: Sequence[set[int]],
) -> dict[str, Any]:
    idle = server.memory_info().rss
    with _collection(client, BUILDS.get(name, {})) as collection:
        seconds = timed(lambda: _build(client, collection, name, vectors))
        memory = server.memory_info().rss - idle
        by_ef = {}
        for ef in EFS.get(name, (32, -1)):
            _update(collection, ef=ef)
            by_ef[str(ef)] = _search(collection, asked, truth)
    return {"build_s": seconds, "server_mb": memory / 1e6, "ef": by_ef}


def _build(client: WeaviateClient, collection: Collection, name: str, vectors: Vectors) -> None:
    _fill(collection, vectors)
    if name in LEARNED:
        _update(collection, quantizer=LEARNED[name])
    deadline = time.monotonic() + _COMPRESSED_WITHIN
    while _is_compressed(client) != (name in LEARNED or "quantizer" in BUILDS[name]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}: nothing was compressed")
        time.sleep(0.5)


def _is_compressed(client: WeaviateClient) -> bool:
    nodes = client.cluster.nodes(NAME, output="verbose")
    return all(shard.compressed for node in nodes for shard in node.shards)


def _update(collection: Collection, **changes: Any) -> None:
    index = Reconfigure.VectorIndex.hnsw(**changes)
    collection.config.update(
        vector_config=Reconfigure.Vectors.update(name="clip", vector_index_config=index)
    )


@contextmanager
def _collection(client: WeaviateClient, options: Mapping[str, Any]) -> Iterator[Collection]:
    index = Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE, **options)
    yield client.collections.create(
        NAME,
        properties=[Property(name="number", data_type=DataType.INT)],
        vector_config=[Configure.Vectors.self_provided(name="clip", vector_index_config=index)],
    )
    client.collections.delete(NAME)


def _fill(collection: Collection, vectors: Vectors) -> None:
    for start in range(0, len(vectors), BATCH):
        rows = vectors[start : start + BATCH]
        answer = collection.data.insert_many(
            [
                DataObject(properties={"number": start + i}, vector={"clip": row.tolist()})
                for i, row in enumerate(rows)
            ]
        )
        if answer.has_errors:
            raise RuntimeError(next(iter(answer.errors.values())).message)


def _search(collection: Collection, asked: Vectors, truth: Sequence[set[int]]) -> dict[str, float]:
    seconds, found = [], 0
    for vector, true in zip(asked, truth, strict=True):
        begun = time.perf_counter()
        answer = collection.query.near_vector(
            vector.tolist(), target_vector="clip", limit=TOP, return_properties=["number"]
        )
        seconds.append(time.perf_counter() - begun)
        found += len(true & {hit.properties["number"] for hit in answer.objects})
    return {"recall": found / (TOP * len(truth)), **percentiles(seconds)}
