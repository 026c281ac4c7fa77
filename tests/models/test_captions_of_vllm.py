"""Captions by a real server with OpenAI's API: vLLM with tiny weights of Gemma 3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import connect_openai
from demo.cases import STORED
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from inference.model_config import model_config
from inference.tensors import RGBImage
from job_system.checks import dependency_checks, run_checks
from tests.models.calls import picture
from tests.support.drawn_pictures import smoke
from tests.support.whole_site import whole_site
from tools.vllm_server import KEY, MODEL, VllmServer, running_vllm
from weavloader.errors import TransientError
from weavloader.provenance import CAPTION, traced
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

TOKENS = 60
AMOUNT = 6


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with running_vllm(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tiny model's context is short."""
    monkeypatch.setenv("OPENAI_MAX_NEW_TOKENS", str(TOKENS))
    model_config.cache_clear()
    yield
    monkeypatch.undo()
    model_config.cache_clear()


def settings(server: VllmServer, **changes: Any) -> Settings:
    given = {"openai_base_url": server.url, "openai_api_key": KEY, "openai_model": MODEL}
    return load_settings(caption_model="openai", **(given | changes))


def caption(server: VllmServer, image: RGBImage | None = None) -> str:
    return ask(settings(server), smoke() if image is None else image)


def ask(given: Settings, image: RGBImage) -> str:
    with closing(connect_openai(given)) as captioner:
        return captioner.caption(image, timeout=120)


def test_an_image_is_captioned_and_another_one_otherwise(vllm: VllmServer) -> None:
    first = caption(vllm)
    assert len(first) > 4
    assert caption(vllm) == first
    others = {caption(vllm, picture(number).astype(np.uint8)) for number in range(4)}
    assert len(others | {first}) > 2


def test_sixteen_callers_at_once_get_captions(vllm: VllmServer) -> None:
    with closing(connect_openai(settings(vllm))) as captioner, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: captioner.caption(smoke(), timeout=300), range(16)))
    assert all(found)


def test_it_says_which_model_made_a_caption(vllm: VllmServer) -> None:
    _, provenance = traced(lambda: caption(vllm))
    assert provenance.model == MODEL
    assert provenance.prompt == model_config().caption_prompt


def test_the_check_finds_the_model(vllm: VllmServer) -> None:
    given = settings(vllm)
    assert dependency_checks(given)["captioner"](given) == f"{MODEL} at {vllm.url}"


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"openai_api_key": "sk-wrong"}, "captioner_auth", "HTTP 401"),
        ({"openai_api_key": ""}, "captioner_auth", "HTTP 401"),
        ({"openai_model": "gemma-9"}, "captioner_not_found", f"gemma-9.*{MODEL}"),
        ({"openai_base_url": "/v2"}, "captioner_not_found", "HTTP 404: no http://.*/v1/v2/"),
    ],
)
def test_a_wrong_setting_is_named_by_check_and_captions(
    changes: dict[str, str], reason: str, said: str, vllm: VllmServer
) -> None:
    if "openai_base_url" in changes:
        changes = {"openai_base_url": vllm.url + changes["openai_base_url"]}
    given = settings(vllm, **changes)
    (result,) = run_checks({"captioner": dependency_checks(given)["captioner"]}, given)
    assert not result.ok
    assert re.search(said, result.detail)
    with pytest.raises(TransientError, match=said.partition(".*")[0]) as caught:
        ask(given, smoke())
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["OPENAI_MAX_NEW_TOKENS", "CAPTION_PROMPT"])
def test_a_request_longer_than_the_context_is_told(
    name: str, vllm: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "600" if name == "OPENAI_MAX_NEW_TOKENS" else "what is it? " * 100)
    model_config.cache_clear()
    with pytest.raises(TransientError) as caught:
        caption(vllm)
    assert caught.value.reason == "captioner_context"


def test_images_of_the_stream_are_captioned_and_stored(
    vllm: VllmServer, triton: Triton, tmp_path: Path
) -> None:
    more = {
        "CAPTION_MODEL": "openai",
        "OPENAI_BASE_URL": vllm.url,
        "OPENAI_API_KEY": KEY,
        "OPENAI_MODEL": MODEL,
        "OPENAI_MAX_NEW_TOKENS": str(TOKENS),
    }
    with whole_site(tmp_path, triton, images=60, more=more) as site:
        good = [
            image for image in site.images if image.expected and image.expected.status == STORED
        ]
        site.publish(good[:AMOUNT])
        wait_until(lambda: site.stored() == AMOUNT, "every image in the store", 300)
        with closing(connect_store(site.settings)) as store:
            found = store.newest(Filters(), AMOUNT)
            objects = [store.get(each.id) for each in found]
        assert not site.dead()
    captions = {each.text["caption"] for each in found}
    assert len(captions) > 1
    assert all(each and each.provenance[CAPTION].model == MODEL for each in objects)
    assert KEY not in (tmp_path / "processor.log").read_text()
