"""What the models said of images that could not be stored yet, kept for their next try."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from redis.exceptions import RedisError

from weavloader import provenance, redis_keys
from weavloader.errors import PermanentError
from weavloader.provenance import Provenance
from weavloader.redis_connection import RedisClient
from weavloader.store.base import Vector

KEPT_SECONDS = 2 * 86400

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Inference:
    """What is known of an image so far.

    Attributes:
        caption: ``None`` before there is one.
        vectors: By vector name, as far as they are computed.
        note: What a reader of the caption should know of how the image was decoded.
        provenance: Which models made the caption and the vectors.
    """

    caption: str | None = None
    vectors: dict[str, Vector] = field(default_factory=dict)
    note: str = ""
    provenance: dict[str, Provenance] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget what the models said."""
        self.caption = None
        self.vectors.clear()
        self.provenance.clear()

    def __bool__(self) -> bool:
        """Whether a model said anything."""
        return self.caption is not None or bool(self.vectors)


class InferenceCache:
    """Inferences in Redis, each until its image is stored or two days have passed.

    Args:
        redis: Answers in bytes.
        models: Names the configuration that inferences come from; those of another are not
            recalled.
    """

    def __init__(self, redis: RedisClient, models: str) -> None:
        self._redis = redis
        self._models = models

    @contextmanager
    def inference_of(self, image_id: str) -> Iterator[Inference]:
        """What is known of an image, to be completed inside.

        It is kept when the block fails in a way that may pass, and forgotten when it ends
        well or is cleared inside. A cache that cannot be reached costs a model call, never the
        image.
        """
        inference = self._recall(image_id)
        recalled = bool(inference)
        try:
            yield inference
        except PermanentError:
            raise
        except BaseException:  # a worker that ends interrupts its processes by SystemExit
            if inference:
                self._keep(image_id, inference)
            elif recalled:
                self.forget(image_id)
            raise
        if recalled:
            self.forget(image_id)

    def is_kept(self, image_id: str) -> bool:
        """Whether an attempt failed after a model had answered, and none has ended well since.

        A cache that cannot be reached has none.
        """
        try:
            return bool(self._redis.exists(redis_keys.inference(image_id)))
        except RedisError as error:
            logger.warning("inference of %s not looked up: %s", image_id, error)
            return False

    def forget(self, image_id: str) -> None:
        """Delete what is known of an image."""
        try:
            self._redis.delete(redis_keys.inference(image_id))
        except RedisError as error:
            logger.warning("inference of %s not forgotten: %s", image_id, error)

    def _recall(self, image_id: str) -> Inference:
        try:
            text = self._redis.get(redis_keys.inference(image_id))
        except RedisError as error:
            logger.warning("inference of %s not recalled: %s", image_id, error)
            text = None
        kept = json.loads(text) if text else {}
        if kept.get("models") != self._models:
            return Inference()
        vectors = {name: unpacked(*each) for name, each in kept["vectors"].items()}
        made_by = provenance.from_json(kept.get("provenance"))
        return Inference(kept["caption"], vectors, kept.get("note", ""), made_by)

    def _keep(self, image_id: str, inference: Inference) -> None:
        kept = {
            "models": self._models,
            "caption": inference.caption,
            "note": inference.note,
            "provenance": provenance.as_json(inference.provenance),
            "vectors": {name: packed(vector) for name, vector in inference.vectors.items()},
        }
        try:
            self._redis.set(redis_keys.inference(image_id), json.dumps(kept), ex=KEPT_SECONDS)
        except RedisError as error:
            logger.warning("inference of %s not kept: %s", image_id, error)


def packed(vector: Vector) -> tuple[list[int], str]:
    """A vector as JSON holds it: its shape, and its numbers in base64."""
    return list(vector.shape), base64.b64encode(vector.astype("<f4").tobytes()).decode()


def unpacked(shape: Sequence[int], data: str) -> Vector:
    """The opposite of :func:`packed`."""
    flat = np.frombuffer(base64.b64decode(data), dtype="<f4")
    return flat.astype(np.float32).reshape(shape)
