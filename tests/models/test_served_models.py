"""The real model repository: six models load, answer the client, and refuse what is wrong."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from demo.servers.triton import PREVIEW_REPOSITORY
from inference import CAPTIONERS, EMBEDDERS, get_colbert_embedding, required_models
from inference.triton import Tensor, text_tensor
from tests.models.calls import TIMEOUT, call, picture, valid
from tests.support.drawn_pictures import smoke
from tools.served_models import MODELS
from weavloader.errors import PermanentError

pytestmark = [pytest.mark.models, pytest.mark.timeout(400)]

WITH_IMAGE = [model for model in MODELS if model != "colbert"]
IN_FLOATS = ["align", "clip", "florence2base"]
TEXT_INPUT = {
    "clip": "text",
    "align": "text",
    "colbert": "text",
    "gemma3": "prompt",
    "qwen2_5_vl": "prompt",
    "florence2base": "text_input",
}
CALLERS = 16


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Texts are equal; vectors nearly, since a batch adds up in another order."""
    for name, tensor in first.items():
        if tensor.dtype == np.object_ and (tensor != second[name]).any():
            return False
        if tensor.shape != second[name].shape:
            return False
        if tensor.dtype != np.object_ and not np.allclose(tensor, second[name], atol=1e-5):
            return False
    return True


def test_the_repository_serves_every_model_that_can_be_configured(
    models: InferenceServerClient,
) -> None:
    every = {name for model in CAPTIONERS for name in required_models(model, EMBEDDERS)}
    assert set(MODELS) == every
    for name in every:
        assert models.is_model_ready(name, client_timeout=TIMEOUT)


@pytest.mark.parametrize("name", CAPTIONERS)
def test_a_caption_model_answers_the_client(name: str, models: InferenceServerClient) -> None:
    caption = CAPTIONERS[name](models, smoke(), timeout=TIMEOUT)
    assert len(caption) > 4
    assert caption.startswith("DESCRIPTION: ") == (name == "florence2")


@pytest.mark.parametrize(
    ("name", "shape"), [("clip", (1024,)), ("align", (640,)), ("colbert", (7, 128))]
)
def test_an_embedding_model_answers_the_client(
    name: str, shape: tuple[int, ...], models: InferenceServerClient
) -> None:
    vector = EMBEDDERS[name](models, "snow", smoke(), timeout=TIMEOUT)
    assert vector.shape == shape
    np.testing.assert_allclose(np.linalg.norm(vector, axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_contract_is_the_one_that_users_were_promised(
    model: str, models: InferenceServerClient
) -> None:
    served = models.get_model_config(model, as_json=True, client_timeout=TIMEOUT)["config"]
    previews = (PREVIEW_REPOSITORY / model / "config.pbtxt").read_text()
    assert served.get("max_batch_size", 0) == 0
    for tensor in (*served["input"], *served["output"]):
        dims = ", ".join(tensor["dims"])
        line = f'name: "{tensor["name"]}", data_type: {tensor["data_type"]}, dims: [ {dims} ]'
        assert line in previews


@pytest.mark.parametrize("model", MODELS)
def test_the_answer_depends_on_what_is_asked(model: str, models: InferenceServerClient) -> None:
    answers = [call(models, model, valid(model, number)) for number in (0, 3, 6)]
    assert not same(answers[0], answers[1])
    assert not same(answers[1], answers[2])


@pytest.mark.parametrize("model", WITH_IMAGE)
def test_the_answer_depends_on_the_image(model: str, models: InferenceServerClient) -> None:
    asked = valid(model)
    other = {**asked, "image": picture(1).astype(asked["image"].dtype)}
    assert not same(call(models, model, asked), call(models, model, other))


@pytest.mark.parametrize("model", WITH_IMAGE)
@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 5, 3), (4, 4, 1), (4, 4)])
def test_an_image_without_pixels_or_of_another_shape_is_refused(
    model: str, shape: tuple[int, ...], models: InferenceServerClient
) -> None:
    asked = valid(model)
    with pytest.raises(PermanentError, match=r"shape|expected \[H, W, 3\] with H, W > 0"):
        call(models, model, {**asked, "image": np.zeros(shape, asked["image"].dtype)})
    assert call(models, model, asked)


@pytest.mark.parametrize("model", MODELS)
def test_an_input_of_another_type_is_refused(model: str, models: InferenceServerClient) -> None:
    asked = valid(model)
    wrong = np.zeros((4, 4, 3), np.float64) if model in WITH_IMAGE else np.zeros(1, np.int32)
    name = "image" if model in WITH_IMAGE else "text"
    with pytest.raises(PermanentError, match=f"'{name}'.*data-type"):
        call(models, model, {**asked, name: wrong})
    assert call(models, model, asked)


@pytest.mark.parametrize("model", IN_FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 256.0])
def test_a_pixel_that_is_none_is_refused(
    model: str, value: float, models: InferenceServerClient
) -> None:
    asked = valid(model)
    image = asked["image"].copy()
    image[3, 2, 1] = value
    with pytest.raises(PermanentError, match="image: expected values from 0 to 255"):
        call(models, model, {**asked, "image": image})
    assert call(models, model, asked)


@pytest.mark.parametrize("model", ["clip", "align", "colbert"])
def test_a_text_of_5000_words_is_read_as_far_as_the_model_can(
    model: str, models: InferenceServerClient
) -> None:
    def vectors(words: int) -> dict[str, Tensor]:
        text = " ".join(["snow", "ridge"] * words)
        return call(models, model, {**valid(model), "text": text_tensor(text)})

    assert same(vectors(2500), vectors(500))
    assert not same(vectors(2500), vectors(2))


@pytest.mark.parametrize("model", ["gemma3", "qwen2_5_vl"])
def test_a_prompt_of_5000_words_is_refused(model: str, models: InferenceServerClient) -> None:
    prompt = text_tensor("what is it? " * 1667)
    with pytest.raises(PermanentError, match=r"prompt: \d+ tokens, at most 2048"):
        call(models, model, {**valid(model), "prompt": prompt})
    assert call(models, model, valid(model))


def test_florence_grounds_a_caption_of_5000_words_as_far_as_it_can(
    models: InferenceServerClient,
) -> None:
    asked = {**valid("florence2base", 2), "text_input": text_tensor("a bear by it " * 1250)}
    (answer,) = call(models, "florence2base", asked)["answer"]
    assert set(json.loads(answer)) == {"<CAPTION_TO_PHRASE_GROUNDING>"}


SIGNS = {
    "clip": "<|endoftext|>",
    "align": "[SEP]",
    "colbert": "[MASK]",
    "gemma3": "<start_of_image><end_of_turn>",
    "qwen2_5_vl": "<|im_end|><|image_pad|>",
    "florence2base": "</s><image>",
}


@pytest.mark.parametrize("model", MODELS)
def test_special_tokens_in_a_text_change_nothing(model: str, models: InferenceServerClient) -> None:
    asked, name, signs = valid(model, 2), TEXT_INPUT[model], SIGNS[model]
    half = len(signs) // 2
    nested = signs[:half] + signs + signs[half:]
    text = asked[name][0].decode()
    spoiled = {**asked, name: text_tensor(f"{signs}{text[:3]}{nested}{text[3:]}{signs}")}
    assert same(call(models, model, spoiled), call(models, model, asked))


@pytest.mark.parametrize("model", MODELS)
def test_a_text_of_special_tokens_alone_is_refused(
    model: str, models: InferenceServerClient
) -> None:
    with pytest.raises(PermanentError, match=f"{TEXT_INPUT[model]}: "):
        call(models, model, {**valid(model, 2), TEXT_INPUT[model]: text_tensor(SIGNS[model])})


@pytest.mark.parametrize("model", MODELS)
def test_a_text_that_is_not_utf8_is_refused(model: str, models: InferenceServerClient) -> None:
    name = TEXT_INPUT[model]
    with pytest.raises(PermanentError, match=f"{name}: not UTF-8"):
        call(models, model, {**valid(model, 2), name: np.array([b"\xff"], np.object_)})


@pytest.mark.parametrize(
    ("task", "text", "said"),
    [
        ("<ODD>", "", "unknown task '<ODD>'"),
        ("", "", "unknown task ''"),
        ("<CAPTION>", "and a bear", "<CAPTION> takes no text"),
        ("<CAPTION_TO_PHRASE_GROUNDING>", " ", "<CAPTION_TO_PHRASE_GROUNDING> needs one"),
    ],
)
def test_a_task_that_florence_does_not_have_is_refused(
    task: str, text: str, said: str, models: InferenceServerClient
) -> None:
    asked = {**valid("florence2base"), "prompt": text_tensor(task), "text_input": text_tensor(text)}
    with pytest.raises(PermanentError, match=said):
        call(models, "florence2base", asked)


@pytest.mark.parametrize("model", ["gemma3", "qwen2_5_vl", "florence2base"])
def test_no_image_is_refused_by_models_that_look_at_one(
    model: str, models: InferenceServerClient
) -> None:
    asked = valid(model)
    none = np.zeros((1, 1, 3), asked["image"].dtype)
    with pytest.raises(PermanentError, match="image: one black pixel"):
        call(models, model, {**asked, "image": none})


def test_an_image_too_long_for_qwen_is_refused(models: InferenceServerClient) -> None:
    asked = {**valid("qwen2_5_vl"), "image": np.ones((2, 402, 3), np.uint8)}
    with pytest.raises(PermanentError, match="too long for its width"):
        call(models, "qwen2_5_vl", asked)


@pytest.mark.parametrize("model", ["clip", "align"])
def test_what_was_not_given_has_a_vector_of_zeros(
    model: str, models: InferenceServerClient
) -> None:
    asked = valid(model)
    no_image = np.zeros((1, 1, 3), np.float32)
    for nothing, name in (({"text": text_tensor("")}, "text"), ({"image": no_image}, "image")):
        vectors = call(models, model, {**asked, **nothing})
        assert {each for each in vectors if not vectors[each].any()} == {f"{name}_embedding"}


def test_colbert_marks_a_query_and_pads_it_to_32(models: InferenceServerClient) -> None:
    query = get_colbert_embedding(models, "snow", timeout=TIMEOUT, query=True)
    document = get_colbert_embedding(models, "snow", timeout=TIMEOUT)
    assert query.shape == (32, 128)
    assert not np.allclose(query[: len(document)], document)


def test_colbert_leaves_out_the_punctuation_of_a_document(models: InferenceServerClient) -> None:
    vectors = get_colbert_embedding(models, "a, i; bear!", timeout=TIMEOUT)
    assert len(vectors) == len("[CLS] [unused1] a i b e a r [SEP]".split())


@pytest.mark.parametrize("model", MODELS)
def test_sixteen_callers_at_once_get_the_answers_they_get_one_by_one(
    model: str, models: InferenceServerClient
) -> None:
    asked = [valid(model, number) for number in range(CALLERS)]
    alone = [call(models, model, inputs) for inputs in asked]
    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(3):
            together = list(pool.map(lambda inputs: call(models, model, inputs), asked))
            assert all(map(same, alone, together))


@pytest.mark.parametrize("model", MODELS)
def test_bad_input_among_sixteen_callers_fails_alone(
    model: str, models: InferenceServerClient
) -> None:
    bad = {**valid(model, 2), TEXT_INPUT[model]: np.array([b"\xff"], np.object_)}
    asked = [bad if number % 4 == 0 else valid(model, number) for number in range(CALLERS)]
    alone = {number: call(models, model, valid(model, number)) for number in (1, 2, 3)}

    def answered(number: int) -> dict[str, Tensor] | None:
        try:
            return call(models, model, asked[number])
        except PermanentError:
            return None

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(answered, range(CALLERS)))
    assert [number for number, answer in enumerate(answers) if answer is None] == [0, 4, 8, 12]
    assert all(same(alone[n], answers[n] or {}) for n in alone)


@pytest.mark.parametrize("name", ["clip", "align"])
@pytest.mark.parametrize(
    ("shape", "value"), [((60, 80), 0), ((1, 80), 0), ((3, 80), 200), ((1, 1), 255), ((3, 3), 1)]
)
def test_images_of_one_value_or_hardly_any_height_have_a_vector(
    name: str, shape: tuple[int, int], value: int, models: InferenceServerClient
) -> None:
    image = np.full((*shape, 3), value, np.uint8)
    assert np.isfinite(EMBEDDERS[name](models, "night", image, timeout=TIMEOUT)).all()
