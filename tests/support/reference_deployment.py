"""What the reference deployment leaves behind, in its formats: messages, dead letters, objects."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.entity import Queue

from weavloader.store.weaviate.client import (
    Collection,
    Configure,
    DataType,
    GeoCoordinate,
    HybridFusion,
    MetadataQuery,
    Property,
    VectorDistances,
    WeaviateClient,
)

TASKS = "job_system.tasks."
TEXTS = (
    "filename",
    "caption",
    "link",
    "timestamp",
    "vsn",
    "node",
    "zone",
    "task",
    "host",
    "job",
    "plugin",
    "camera",
    "project",
    "address",
)
QUEUES = {
    "process_image_task": "image_processing",
    "monitor_data_stream": "data_monitoring",
    "handle_dlq": "cleanup",
    "process_dlq_message": "cleanup",
    "process_dlq_tasks": "cleanup",
}


def image_data(url: str, vsn: str = "W021", **names: object) -> dict[str, object]:
    """The one argument of ``process_image_task``; a name that a record lacks is NaN."""
    return {
        "url": url,
        "timestamp": "2026-11-24T01:57:56.713832936+00:00",
        "vsn": vsn,
        "filename": url.rpartition("/")[2],
        "camera": "bottom",
        "host": "0000.ws-nxcore",
        "job": "sage",
        "node": "000048b02d15bc7c",
        "plugin": "imagesampler:0.3.0",
        "task": "imagesampler-bottom",
        "zone": float("nan"),
        **names,
    }


@contextmanager
def reference_app(redis_url: str) -> Iterator[Celery]:
    """Its Celery application, which knows the names of its tasks and sends as it does."""
    app = Celery("weavloader", set_as_current=False)
    queues = ("data_monitoring", "image_processing", "cleanup")
    app.conf.update(
        broker_url=redis_url,
        result_backend=redis_url,
        task_queues=[Queue(name) for name in queues],  # type: ignore[no-untyped-call]
        task_routes={TASKS + name: {"queue": queue} for name, queue in QUEUES.items()},
        task_serializer="json",
        accept_content=["json"],
        result_serializer="json",
        timezone="UTC",
        task_acks_late=True,
        task_send_sent_event=True,
    )
    try:
        yield app
    finally:
        app.close()


def send(app: Celery, name: str, *args: object, **kwargs: object) -> str:
    """Put one of its messages on its queue; the task's id, which is random."""
    sent = app.send_task(TASKS + name, args=list(args), kwargs=kwargs, queue=QUEUES[name])
    return str(sent.id)


def take(redis: Any, queue: str, seconds_ago: float = 0.0) -> None:
    """Take a message of a queue as its worker does, which then is killed."""
    raw = redis.rpop(queue)
    tag = json.loads(raw)["properties"]["delivery_tag"]
    redis.hset("unacked", tag, b"[" + raw + b', "", ' + json.dumps(queue).encode() + b"]")
    redis.zadd("unacked_index", {tag: time.time() - seconds_ago})


def failure(name: str = "process_image_task") -> dict[str, str]:
    """The headers of a dead letter: the failed task and its error."""
    return {
        "task_id": str(uuid.uuid4()),
        "failed_task": TASKS + name,
        "exc_type": "HTTPError",
        "exc_message": "404 Client Error: Not Found",
    }


def archive(
    redis: Any, image: Mapping[str, object], days: float = 0.0, task: str = "process_image_task"
) -> str:
    """Write one of its dead letters; its id, which is not that of the failed task."""
    letter_id = uuid.uuid4().hex
    record = {
        "failed_task": TASKS + task,
        "args": [image],
        "kwargs": {},
        "headers": failure(task),
        "archived_at": time.time() - days * 86400,
    }
    redis.set(f"dlq:{letter_id}", json.dumps(record, default=str), ex=60 * 86400)
    return letter_id


def create_collection(client: WeaviateClient, name: str) -> None:
    """Create its collection, but for the reranker, which is a module of the server."""
    # Here, since the first import of the library is one that silences its warnings.
    from weaviate.classes.config import VectorFilterStrategy

    client.collections.create(
        name,
        description="A collection to implement Hybrid Search example",
        properties=[
            *(Property(name=each, data_type=DataType.TEXT) for each in TEXTS),
            *(Property(name=each, data_type=DataType.BLOB) for each in ("image", "audio", "video")),
            Property(name="location", data_type=DataType.GEO_COORDINATES),
        ],
        vector_config=[
            Configure.Vectors.self_provided(
                name="clip",
                quantizer=Configure.VectorIndex.Quantizer.pq(training_limit=100_000),
                vector_index_config=Configure.VectorIndex.hnsw(
                    distance_metric=VectorDistances.COSINE,
                    dynamic_ef_factor=20,
                    dynamic_ef_max=500,
                    dynamic_ef_min=200,
                    ef=-1,
                    ef_construction=100,
                    filter_strategy=VectorFilterStrategy.ACORN,
                    max_connections=42,
                ),
            )
        ],
    )


def search(collection: Collection, text: str, vector: Sequence[float]) -> list[dict[str, Any]]:
    """Its search page's query, but for the reranker, and the row that it makes of each object."""
    answer = collection.query.hybrid(
        query=text,
        target_vector="clip",
        fusion_type=HybridFusion.RELATIVE_SCORE,
        auto_limit=0,
        limit=1000,
        alpha=0.4,
        return_metadata=MetadataQuery(score=True, explain_score=True),
        query_properties=[
            "caption",
            "camera",
            "host",
            "job",
            "vsn",
            "plugin",
            "zone",
            "project",
            "address",
        ],
        vector=list(vector),
    )
    return [
        {
            **{name: hit.properties.get(name, "") for name in TEXTS},
            "score": hit.metadata.score,
            "location_lat": _coordinate(hit.properties.get("location", ""), "latitude"),
            "location_lon": _coordinate(hit.properties.get("location", ""), "longitude"),
        }
        for hit in answer.objects
    ]


def _coordinate(location: Any, name: str) -> float:
    return float(getattr(location, name, "0.0")) if location else 0.0


def stored_properties(
    image: Mapping[str, object], timestamp: str, file: bytes, place: tuple[float, float]
) -> dict[str, Any]:
    """The properties of one of its objects; 0 and 0 are the location of a node without one."""
    names = ("camera", "host", "job", "node", "plugin", "task", "vsn", "filename", "zone")
    return {
        **{name: str(image[name]) for name in names},
        "image": base64.b64encode(file).decode(),
        "timestamp": timestamp,
        "link": image["url"],
        "caption": f"a fox beside {image['filename']}",
        "project": "SAGE",
        "address": "unknown",
        "location": GeoCoordinate(latitude=place[0], longitude=place[1]),
    }
