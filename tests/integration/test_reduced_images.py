"""What models say of an image as the pipeline reduces it, against the same image in full."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from demo.pictures import SCENES, Canvas
from inference import gemma3_run_model, get_align_embeddings, get_clip_embeddings
from inference.model_config import ImageLimit, model_config
from inference.models.captions import ask
from inference.models.embeddings import embed
from inference.tensors import RGBImage
from weavloader.images.decode import DecodeLimits, decode
from weavloader.store.base import Vector

TIMEOUT = 30.0
SIZE = (2048, 1536)
UNLIMITED = ImageLimit(10**9)
# As `docs/performance.md` says it.
MIN_COSINE = 0.999

Embed = Callable[..., Vector]


def camera_image(scene: str) -> bytes:
    """A JPEG of 2048x1536 as a node's camera sends it, with grain."""
    canvas = Canvas(np.random.default_rng(7))
    SCENES[scene](canvas)
    file = io.BytesIO()
    canvas.developed(SIZE).save(file, "JPEG", quality=90)
    return file.getvalue()


def in_full(data: bytes) -> RGBImage:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def as_sent(data: bytes) -> RGBImage:
    limits = DecodeLimits(10**8, 10**9, model_config().wanted_pixels)
    return decode(data, limits).pixels


@pytest.mark.parametrize("scene", SCENES)
def test_the_caption_of_a_reduced_image_is_that_of_the_full_one(
    scene: str, triton_client: InferenceServerClient
) -> None:
    data = camera_image(scene)
    full = ask("gemma3", triton_client, in_full(data), limit=UNLIMITED, timeout=TIMEOUT)
    assert gemma3_run_model(triton_client, as_sent(data), timeout=TIMEOUT) == full


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(
    ("model", "reduced"), [("clip", get_clip_embeddings), ("align", get_align_embeddings)]
)
def test_the_vector_of_a_reduced_image_points_where_that_of_the_full_one_does(
    model: str, reduced: Embed, scene: str, triton_client: InferenceServerClient
) -> None:
    data = camera_image(scene)
    vector = reduced(triton_client, "", as_sent(data), timeout=TIMEOUT)
    full = embed(
        model,
        triton_client,
        "",
        in_full(data),
        limit=UNLIMITED,
        dimension=len(vector),
        timeout=TIMEOUT,
    )
    assert float(full @ vector) > MIN_COSINE


def test_another_scene_is_further_away_than_that(triton_client: InferenceServerClient) -> None:
    vectors = [
        get_clip_embeddings(triton_client, "", as_sent(camera_image(scene)), timeout=TIMEOUT)
        for scene in SCENES
    ]
    cosines = np.stack(vectors) @ np.stack(vectors).T
    assert (cosines - np.eye(len(vectors))).max() < MIN_COSINE
