"""What is asked of an OpenAI-compatible server before any image, and what an operator is told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from client import connect_openai
from job_system.checks import dependency_checks, role_checks, run_checks
from tests.support.local_server import Answer
from tests.support.openai_stand_in import (
    CAPTION,
    KEY,
    MODEL,
    OpenAIStandIn,
    answer,
    connect,
    openai_stand_in,
    refusal,
)
from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.settings import load_settings

TIMEOUT = 20.0


@pytest.fixture
def server() -> Iterator[OpenAIStandIn]:
    with openai_stand_in() as stand_in:
        yield stand_in


def test_a_model_that_is_offered_is_found(server: OpenAIStandIn) -> None:
    connect(server).require_model(timeout=TIMEOUT)
    server.models = answer(200, {"data": [{"id": "gemma3:latest"}]})
    connect(server, model="gemma3").require_model(timeout=TIMEOUT)


def test_a_model_that_is_not_offered_is_told_with_those_that_are(server: OpenAIStandIn) -> None:
    expected = rf"no model 'gemma'; {server.url} offers gemma3:4b, llava:7b$"
    with pytest.raises(TransientError, match=expected) as caught:
        connect(server, model="gemma").require_model(timeout=TIMEOUT)
    assert caught.value.reason == "captioner_not_found"
    server.models = answer(200, {"data": [{"id": f"m{n}"} for n in range(500)]})
    with pytest.raises(TransientError, match=r"m19 and 480 more$"):
        connect(server).require_model(timeout=TIMEOUT)
    server.models = answer(200, {"data": [{"id": "m" * 10**5} for _ in range(20)]})
    with pytest.raises(TransientError) as caught:
        connect(server).require_model(timeout=TIMEOUT)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("found", "reason", "said"),
    [
        (refusal(401, "no"), "captioner_auth", "HTTP 401: OPENAI_API_KEY is refused: no"),
        (Answer(404, (b"nothing",)), "captioner_not_found", "no http://127.0.0.1:.*/v1/models"),
        (answer(404, {"detail": "Not Found"}), "captioner_not_found", "no http://127.0.0.1:.*/v1/"),
        (Answer(200, (b"<html>",)), "captioner_not_found", "no list of models"),
        (answer(200, {"data": None}), "captioner_not_found", "no list of models"),
    ],
)
def test_a_server_that_lists_no_models_is_told(
    found: Answer, reason: str, said: str, server: OpenAIStandIn
) -> None:
    server.models = found
    with pytest.raises(TransientError, match=said) as caught:
        connect(server).require_model(timeout=TIMEOUT)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("found", "is_down"),
    [
        (refusal(401, "no"), True),
        (refusal(503, "loading"), True),
        (answer(200, {"data": []}), False),
        (Answer(404, (b"",)), False),
        (refusal(500, "no"), False),
    ],
)
def test_the_probe_asks_for_no_more_than_a_request_needs(
    found: Answer, is_down: bool, server: OpenAIStandIn
) -> None:
    server.models = found
    try:
        connect(server).probe(timeout=TIMEOUT)
    except TransientError:
        assert is_down
    else:
        assert not is_down


def test_neither_client_nor_settings_show_the_key(server: OpenAIStandIn) -> None:
    settings = load_settings(
        caption_model="openai", openai_base_url=server.url, openai_model=MODEL, openai_api_key=KEY
    )
    captioner = connect_openai(settings)
    assert captioner.caption(np.zeros((30, 40, 3), np.uint8), timeout=TIMEOUT) == CAPTION
    shown = repr(settings) + repr(captioner) + repr(vars(captioner))
    assert KEY not in shown


@pytest.mark.parametrize(
    ("given", "missing"),
    [({}, "OPENAI_BASE_URL"), ({"openai_base_url": "http://localhost:11434/v1"}, "OPENAI_MODEL")],
)
def test_a_captioner_without_url_or_model_is_refused(given: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing}: required by CAPTION_MODEL=openai") as caught:
        connect_openai(load_settings(caption_model="openai", **given))
    assert caught.value.reason is Reason.BAD_SETTING


@pytest.mark.parametrize("url", ["localhost:11434/v1", "http://", "http://a:b:c/v1", "http://h:0"])
def test_an_address_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL: expected a URL"):
        load_settings(openai_base_url=url)


@pytest.mark.parametrize(
    ("url", "key", "model", "line"),
    [
        ("", KEY, MODEL, f"ok {MODEL} at http://127.0.0.1:PORT/v1"),
        (
            *("", "sk-wrong", MODEL),
            "FAIL openai: HTTP 401: OPENAI_API_KEY is refused: Incorrect API key provided",
        ),
        (
            *("", KEY, "gemma-3"),
            "FAIL openai: no model 'gemma-3'; http://127.0.0.1:PORT/v1 offers gemma3:4b, llava:7b",
        ),
        (
            *("/v2", KEY, MODEL),
            "FAIL openai: HTTP 404: no http://127.0.0.1:PORT/v1/v2/models; "
            "OPENAI_BASE_URL ends in /v1 on most servers",
        ),
        ("", KEY, "", "FAIL OPENAI_MODEL: required by CAPTION_MODEL=openai"),
    ],
)
def test_the_check_names_what_the_operator_must_correct(
    url: str, key: str, model: str, line: str, server: OpenAIStandIn
) -> None:
    settings = load_settings(
        caption_model="openai",
        openai_base_url=server.url + url,
        openai_api_key=key,
        openai_model=model,
    )
    check = {"captioner": dependency_checks(settings)["captioner"]}
    (result,) = run_checks(check, settings)
    port = server.server.host.rpartition(":")[2]
    assert f"{'ok' if result.ok else 'FAIL'} {result.detail}" == line.replace("PORT", port)
    assert not server.asked


def test_a_site_that_captions_by_triton_checks_no_other_captioner() -> None:
    assert "captioner" not in dependency_checks(load_settings())
    assert "captioner" not in role_checks("processor", load_settings())
    openai = load_settings(caption_model="openai")
    assert "captioner" in role_checks("processor", openai)
