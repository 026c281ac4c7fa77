"""Every model, through the real client, on a real Triton."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from demo.servers.triton import Triton
from inference import (
    CAPTIONERS,
    EMBEDDERS,
    florence2_run_model,
    gemma3_run_model,
    get_clip_embeddings,
    required_models,
)
from inference.model_config import ImageLimit
from inference.tensors import reduce_image
from inference.triton import Tensor, Tensors, infer, text_tensor
from job_system.checks import dependency_checks, run_checks
from tests.support.drawn_pictures import green_field, smoke
from weavloader.errors import PermanentError, TransientError
from weavloader.provenance import traced
from weavloader.settings import load_settings

TIMEOUT = 20.0


def test_every_model_that_can_be_configured_is_ready(
    triton_client: InferenceServerClient,
) -> None:
    for name in CAPTIONERS:
        for model in required_models(name, EMBEDDERS):
            assert triton_client.is_model_ready(model, client_timeout=TIMEOUT)


@pytest.mark.parametrize("name", CAPTIONERS)
def test_a_caption_model_captions_and_says_it_is_a_preview(
    name: str, triton_client: InferenceServerClient
) -> None:
    caption = CAPTIONERS[name](triton_client, green_field(), timeout=TIMEOUT)
    assert "Preview caption: a bright day picture" in caption


@pytest.mark.parametrize("name", [*CAPTIONERS, *EMBEDDERS])
def test_a_preview_model_tells_that_it_is_one(
    name: str, triton_client: InferenceServerClient
) -> None:
    call: Any = CAPTIONERS.get(name) or partial(EMBEDDERS[name], text="a green field")
    _, made_by = traced(partial(call, triton_client, image=green_field(), timeout=TIMEOUT))
    assert (made_by.model, made_by.revision, made_by.is_preview) == (f"preview/{name}", "1", True)
    assert bool(made_by.prompt) == (name in CAPTIONERS)


@pytest.mark.parametrize(
    ("name", "shape"), [("clip", (1024,)), ("align", (640,)), ("colbert", (2, 128))]
)
def test_an_embedding_model_embeds(
    name: str, shape: tuple[int, ...], triton_client: InferenceServerClient
) -> None:
    embed = EMBEDDERS[name]
    vector = embed(triton_client, "a green field", green_field(), timeout=TIMEOUT)
    assert vector.dtype == np.float32
    assert vector.shape == shape
    np.testing.assert_allclose(np.linalg.norm(vector, axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_same_input_gives_the_same_vector(
    name: str, triton_client: InferenceServerClient
) -> None:
    embed = EMBEDDERS[name]
    first, second = (embed(triton_client, "snow", smoke(), timeout=TIMEOUT) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_order_of_the_fused_vector_is_image_then_text(
    triton_client: InferenceServerClient,
) -> None:
    def embed(text: str, *image: Tensor) -> Tensor:
        return get_clip_embeddings(triton_client, text, *image, timeout=TIMEOUT)

    fused = 0.7 * embed("", smoke()) + 0.3 * embed("snow")
    np.testing.assert_allclose(embed("snow", smoke()), fused / np.linalg.norm(fused), atol=1e-6)


def test_text_of_any_script_and_length_is_embedded(triton_client: InferenceServerClient) -> None:
    for text in ("吹雪", "the", "\ud800", "🌲" * 5, "snow " * 20_000):
        for embed in EMBEDDERS.values():
            assert embed(triton_client, text, timeout=TIMEOUT).size


def ask_clip(client: InferenceServerClient, image: Tensor) -> Tensors:
    inputs = {"text": text_tensor(""), "image": image}
    return infer(
        client, "clip", inputs, dict, outputs=["image_embedding"], operation="t", timeout=TIMEOUT
    )


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((0, 0, 3), np.float32), r"expected \[H, W, 3\] with H, W > 0, not \[0, 0, 3\]"),
        (np.full((2, 2, 3), np.nan, np.float32), "expected values from 0 to 255"),
        (np.full((2, 2, 3), 256, np.float32), "expected values from 0 to 255"),
        (np.zeros((2, 2, 3), np.uint8), "data-type|datatype"),
        (np.zeros((2, 2, 4), np.float32), "shape"),
    ],
    ids=["no pixels", "nan", "out of range", "other type", "other shape"],
)
def test_bad_input_is_refused_for_good_and_the_model_lives_on(
    image: Tensor, said: str, triton_client: InferenceServerClient
) -> None:
    with pytest.raises(PermanentError, match=said) as caught:
        ask_clip(triton_client, image)
    assert caught.value.reason == "bad_input"
    assert ask_clip(triton_client, np.zeros((2, 2, 3), np.float32))["image_embedding"].any()


def test_an_unknown_florence_task_is_refused(triton_client: InferenceServerClient) -> None:
    with pytest.raises(PermanentError, match="unknown task '<OD>'"):
        florence2_run_model(triton_client, smoke(), "<OD>", timeout=TIMEOUT)


def test_florence_gives_boxes_in_pixels_of_the_image_it_was_given(
    triton_client: InferenceServerClient,
) -> None:
    answer = florence2_run_model(triton_client, smoke(), "<DENSE_REGION_CAPTION>", timeout=TIMEOUT)
    boxes = dict(zip(answer["labels"], answer["bboxes"], strict=True))
    left, top, right, bottom = boxes["a grey plume like smoke"]
    assert (left, top) == pytest.approx((550, 50), abs=60)
    assert (right, bottom) == pytest.approx((960, 600), abs=60)  # it looks for smoke in the sky


def test_a_raw_florence_answer_is_json_keyed_by_its_task(
    triton_client: InferenceServerClient,
) -> None:
    inputs: Tensors = {
        "image": reduce_image(smoke(), ImageLimit.of_side(768)).astype(np.float32),
        "prompt": text_tensor("<CAPTION_TO_PHRASE_GROUNDING>"),
        "text_input": text_tensor("Smoke and two bears under the sky."),
        "image_width": np.array([1600], np.int32),
        "image_height": np.array([1200], np.int32),
    }
    answer = infer(
        triton_client,
        "florence2base",
        inputs,
        lambda outputs: outputs["answer"],
        outputs=["answer"],
        operation="t",
        timeout=TIMEOUT,
    )
    (grounded,) = json.loads(answer[0]).values()
    assert grounded["labels"] == ["smoke", "sky"]


def test_an_unknown_model_may_appear_later(triton_client: InferenceServerClient) -> None:
    with pytest.raises(TransientError) as caught:
        infer(
            triton_client,
            "absent",
            {"text": text_tensor("")},
            dict,
            outputs=["x"],
            operation="t",
            timeout=TIMEOUT,
        )
    assert caught.value.reason == "model_missing"


def test_a_call_out_of_time_says_so(triton_client: InferenceServerClient) -> None:
    for timeout in (0.0005, 0.0, -1.0):
        with pytest.raises(TransientError) as caught:
            gemma3_run_model(triton_client, smoke(), timeout=timeout)
        assert caught.value.reason == "triton_timeout"


def test_a_server_out_of_reach_says_so() -> None:
    client = InferenceServerClient("127.0.0.1:1")
    with pytest.raises(TransientError) as caught:
        get_clip_embeddings(client, "snow", timeout=5)
    client.close()
    assert caught.value.reason == "triton_unavailable"


def test_clip_sees_nearly_the_same_in_a_reduced_image(
    triton_client: InferenceServerClient,
) -> None:
    whole = ask_clip(triton_client, smoke().astype(np.float32))["image_embedding"][0]
    reduced = get_clip_embeddings(triton_client, "", smoke(), timeout=TIMEOUT)
    assert reduced @ whole / np.linalg.norm(whole) > 0.995


def test_vectors_are_not_normalised_by_the_server(triton_client: InferenceServerClient) -> None:
    image = reduce_image(smoke(), ImageLimit.of_side(378)).astype(np.float32)
    vector = ask_clip(triton_client, image)["image_embedding"]
    assert vector.shape == (1, 1024)
    assert abs(np.linalg.norm(vector) - 1.0) > 0.1


def test_the_server_listens_on_loopback_and_counts(triton: Triton) -> None:
    page = httpx.get(f"http://127.0.0.1:{triton.ports.metrics}/metrics", timeout=5).text
    assert "nv_inference_request_success" in page


def test_check_says_whether_previews_are_served_and_meant(triton: Triton) -> None:
    meant = load_settings(
        triton_host=triton.host, triton_port=triton.ports.grpc, preview_models=True
    )
    (result,) = run_checks({"triton": dependency_checks(meant)["triton"]}, meant)
    assert result.ok and result.detail.startswith("PREVIEW models")
    other = meant.model_copy(update={"preview_models": False})
    (result,) = run_checks({"triton": dependency_checks(other)["triton"]}, other)
    assert not result.ok
    assert result.detail.startswith("it serves PREVIEW models (preview/gemma3, preview/clip)")
