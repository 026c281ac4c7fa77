"""What Weaviate's HNSW index finds of the true neighbours, by its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import psutil
from weaviate.classes.config import Configure, Reconfigure, VectorDistances

from benchmarks.store_load import percentiles, timed
from benchmarks.store_objects import Vectors
from weavloader.settings import Settings
from weavloader.store.weaviate_api import Collection, DataObject, WeaviateClient, connect

TOP = 10
BATCH = 500
NAME = "Recall"
_TRAINING = 5000  # a server trains on 100,000 unless told otherwise, and so here never
_Quantizer = Configure.VectorIndex.Quantizer

# By what a table calls it: how the graph is built, and how vectors are compressed.
BUILDS: Mapping[str, Mapping[str, Any]] = {
    "as created": {},
    "maxConnections 16": {"max_connections": 16},
    "maxConnections 64": {"max_connections": 64},
    "efConstruction 64": {"ef_construction": 64},
    "efConstruction 256": {"ef_construction": 256},
    "RQ, 8 bits": {"quantizer": _Quantizer.rq(bits=8)},
    "RQ, 1 bit": {"quantizer": _Quantizer.rq(bits=1)},
    "SQ": {"quantizer": _Quantizer.sq(training_limit=_TRAINING)},
    "BQ": {"quantizer": _Quantizer.bq()},
    "PQ": {"quantizer": _Quantizer.pq(training_limit=_TRAINING)},
}
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
    for name, options in BUILDS.items():
        server = restart()
        with closing(connect(settings)) as client:
            efs = EFS.get(name, (32, -1))
            yield name, _measure(client, server, options, vectors, asked, truth, efs)


def nearest(vectors: Vectors, asked: Vectors) -> list[set[int]]:
    """The true ten nearest of each query, by cosine; vectors are of unit length."""
    return [set(row) for row in np.argsort(-(asked @ vectors.T), axis=1)[:, :TOP].tolist()]


def _measure(
    client: WeaviateClient,
    server: psutil.Process,
    options: Mapping[str, Any],
    vectors: Vectors,
    asked: Vectors,
    truth: Sequence[set[int]],
    efs: Sequence[int],
) -> dict[str, Any]:
    with _collection(client, options) as collection:
        idle = server.memory_info().rss
        seconds = timed(lambda: _fill(collection, vectors))
        memory = server.memory_info().rss - idle
        by_ef = {}
        for ef in efs:
            index = Reconfigure.VectorIndex.hnsw(ef=ef)
            collection.config.update(
                vector_config=Reconfigure.Vectors.update(name="clip", vector_index_config=index)
            )
            by_ef[str(ef)] = _search(collection, asked, truth)
    return {"build_s": seconds, "server_mb": memory / 1e6, "ef": by_ef}


@contextmanager
def _collection(client: WeaviateClient, options: Mapping[str, Any]) -> Iterator[Collection]:
    index = Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE, **options)
    yield client.collections.create(
        NAME,
        vector_config=[Configure.Vectors.self_provided(name="clip", vector_index_config=index)],
    )
    client.collections.delete(NAME)


def _fill(collection: Collection, vectors: Vectors) -> None:
    for start in range(0, len(vectors), BATCH):
        rows = vectors[start : start + BATCH]
        answer = collection.data.insert_many([
            DataObject(properties={"number": start + i}, vector={"clip": row.tolist()})
            for i, row in enumerate(rows)
        ])  # fmt: skip
        if answer.has_errors:
            raise RuntimeError(next(iter(answer.errors.values())).message)
    _wait_until_trained(collection)


def _wait_until_trained(collection: Collection) -> None:
    """Quantisers that learn from what is stored are at work for a while after the last write."""
    quiet = 0
    while quiet < 3:
        time.sleep(0.5)
        shards = collection.shards()
        quiet = quiet + 1 if all(not shard.vector_queue_length for shard in shards) else 0


def _search(collection: Collection, asked: Vectors, truth: Sequence[set[int]]) -> dict[str, float]:
    seconds, found = [], 0
    for vector, true in zip(asked, truth, strict=True):
        begun = time.perf_counter()
        answer = collection.query.near_vector(
            vector.tolist(), target_vector="clip", limit=TOP, return_properties=["number"]
        )
        seconds.append(time.perf_counter() - begun)
        found += len(
            true & {int(str(hit.properties["number"]).split(".")[0]) for hit in answer.objects}
        )
    return {"recall": found / (TOP * len(truth)), **percentiles(seconds)}
