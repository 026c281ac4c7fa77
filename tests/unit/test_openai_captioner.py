"""The captioner of ``CAPTION_MODEL=openai``: what it sends, and what becomes of each answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Event

import httpx
import numpy as np
import pytest

from inference.model_config import model_config
from inference.openai import MAX_ANSWER_BYTES, MAX_LIST_BYTES, MAX_PAUSE_SECONDS
from metrics import metrics
from tests.support.local_server import Answer, local_server
from tests.support.openai_stand_in import (
    CAPTION,
    KEY,
    MODEL,
    OpenAIStandIn,
    answer,
    completion,
    connect,
    openai_stand_in,
    picture_in,
    refusal,
)
from weavloader.errors import PermanentError, TransientError, WeavloaderError
from weavloader.provenance import traced

IMAGE = np.full((1200, 1600, 3), (40, 120, 200), dtype=np.uint8)

SMALL = IMAGE[:30, :40]
TIMEOUT = 20.0


@dataclass
class Clock:
    """Sleeps of no length, noted; while one lasts, time goes by."""

    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, real = Clock(), time.monotonic
    monkeypatch.setattr("inference.openai.time.monotonic", lambda: real() + sum(clock.slept))
    return clock


@pytest.fixture
def server() -> Iterator[OpenAIStandIn]:
    with openai_stand_in() as stand_in:
        yield stand_in


def failure(server: OpenAIStandIn, timeout: float = TIMEOUT, url: str = "") -> WeavloaderError:
    with pytest.raises(WeavloaderError) as caught:
        connect(server, url=url).caption(SMALL, timeout=timeout)
    assert KEY not in str(caught.value)
    return caught.value


def test_an_image_goes_out_as_a_jpeg_of_the_size_that_the_model_uses(server: OpenAIStandIn) -> None:
    assert connect(server).caption(IMAGE, timeout=TIMEOUT) == CAPTION
    (body,) = server.asked
    picture, config = picture_in(body), model_config()
    assert picture.width * picture.height <= config.openai_max_pixels < 1200 * 1600
    assert picture.width * 3 == pytest.approx(picture.height * 4, abs=4)
    assert np.allclose(np.asarray(picture), IMAGE[0, 0], atol=4)
    (_, text) = body["messages"][0]["content"]
    assert text == {"type": "text", "text": config.caption_prompt}
    assert body["model"] == MODEL
    assert body["max_tokens"] == config.openai_max_new_tokens == 512
    assert body["temperature"] == 0


@pytest.mark.parametrize(
    ("told", "model", "revision"),
    [
        ({}, MODEL, "unknown"),
        ({"model": "gpt-4o-2024-08-06", "system_fingerprint": "fp_1"}, "gpt-4o-2024-08-06", "fp_1"),
        ({"model": None, "system_fingerprint": ""}, MODEL, "unknown"),
        ({"model": "m" * 10**5, "system_fingerprint": "\x1b[31m"}, "m" * 80, "[31m"),
    ],
)
def test_a_caption_tells_which_model_made_it(
    told: dict[str, str], model: str, revision: str, server: OpenAIStandIn
) -> None:
    choice = {"message": {"content": CAPTION}, "finish_reason": "stop"}
    server.completions = [answer(200, {"choices": [choice], **told})]
    captioner = connect(server)
    _, provenance = traced(lambda: captioner.caption(SMALL, timeout=TIMEOUT))
    assert (provenance.model, provenance.revision) == (model, revision)
    assert provenance.prompt == model_config().caption_prompt


def test_ollama_is_sent_no_field_that_it_overlooks_and_no_picture_that_it_refuses(
    server: OpenAIStandIn,
) -> None:
    connect(server).caption(SMALL, timeout=TIMEOUT)
    (body,) = server.asked
    # Those of its ChatCompletionRequest; it takes no URL of a picture but a data URL.
    assert set(body) == {"model", "messages", "max_tokens", "temperature"}
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_server_that_asks_for_no_key_gets_none(server: OpenAIStandIn) -> None:
    server.key = ""
    assert connect(server, key="").caption(SMALL, timeout=TIMEOUT)
    assert "authorization" not in server.server.requests[0].headers


def test_a_key_that_is_not_ascii_is_sent_as_it_is(server: OpenAIStandIn) -> None:
    # The server reads headers as Latin-1.
    server.key = "schlüssel".encode().decode("latin-1")
    assert connect(server, key="schlüssel").caption(SMALL, timeout=TIMEOUT)


def test_a_caption_is_trimmed_as_those_of_triton_are(server: OpenAIStandIn) -> None:
    server.completions = [completion(" \x00The road is wet today. " * 5 + "The ro", "length")]
    assert connect(server).caption(SMALL, timeout=TIMEOUT) == "The road is wet today."


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        ("<think>A road? Yes.</think>\nA road.", "A road."),
        ([{"type": "text", "text": "A "}, {"type": "text", "text": "road."}], "A road."),
    ],
)
def test_a_caption_is_found_among_thoughts_and_in_parts(
    content: object, caption: str, server: OpenAIStandIn
) -> None:
    server.completions = [completion(content)]
    assert connect(server).caption(SMALL, timeout=TIMEOUT) == caption


def of_ollama(status: int, message: str, kind: str) -> Answer:
    error = {"message": message, "type": kind, "param": None, "code": None}
    return answer(status, {"error": error})


TOO_LONG = "This model's maximum context length is 512 tokens"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (refusal(400, "Bad image_url"), "captioner_refused"),
        (refusal(413, "too large"), "captioner_refused"),
        (refusal(422, "no field x"), "captioner_refused"),
        (refusal(400, f"{MODEL} is not a multimodal model"), "captioner_refused"),
        (refusal(400, TOO_LONG), "captioner_context"),
        (refusal(400, "no", code="context_length_exceeded"), "captioner_context"),
        (refusal(500, "the request exceeds the available context size"), "captioner_context"),
        (refusal(401, "Incorrect API key"), "captioner_auth"),
        (refusal(402, "no credit"), "captioner_auth"),
        (refusal(403, "no access"), "captioner_auth"),
        (refusal(404, 'model "x" not found, try pulling it first'), "captioner_not_found"),
        (refusal(400, "x is not a valid model ID"), "captioner_not_found"),
        (refusal(405, "Method Not Allowed"), "captioner_not_found"),
        (refusal(408, "slow"), "captioner_timeout"),
        (refusal(429, "quota"), "captioner_overloaded"),
        (refusal(500, "CUDA out of memory"), "captioner_error"),
        (refusal(501, "no"), "captioner_error"),
        (Answer(502, (b"<html>Bad Gateway</html>",)), "captioner_unavailable"),
        (refusal(503, "Loading model"), "captioner_unavailable"),
        (Answer(504, (b"",)), "captioner_timeout"),
        # As Ollama writes them, whose code and param are null.
        (of_ollama(404, "model 'x' not found", "not_found_error"), "captioner_not_found"),
        (of_ollama(503, "server busy, please try again.", "api_error"), "captioner_unavailable"),
        (of_ollama(500, "llama runner process has terminated", "api_error"), "captioner_error"),
        (of_ollama(400, "invalid image input", "invalid_request_error"), "captioner_refused"),
        # All of the answer's tokens were thoughts.
        (completion("", "length", reasoning="Let me see"), "captioner_bad_answer"),
        (Answer(404, (b"404 page not found",)), "captioner_not_found"),
        (answer(400, {"error": "a text"}), "captioner_refused"),
        (answer(400, {"detail": [{"msg": "as FastAPI says"}]}), "captioner_refused"),
        (answer(400, [1]), "captioner_refused"),
        (answer(200, {"error": {"message": "upstream"}}), "captioner_bad_answer"),
        (answer(200, {"choices": []}), "captioner_bad_answer"),
        (answer(200, []), "captioner_bad_answer"),
        (answer(200, {"choices": [{"message": "text"}]}), "captioner_bad_answer"),
        (Answer(200, (b"[" * 100_000,)), "captioner_bad_answer"),
        (Answer(200, (b'{"choices": [{"message": {"content": "A ro',)), "captioner_bad_answer"),
        (Answer(200, (b"<html>Sign in</html>",)), "captioner_bad_answer"),
        (completion(" \n"), "captioner_bad_answer"),
        (completion(None), "captioner_bad_answer"),
        (completion(7), "captioner_bad_answer"),
        (completion("<think>So, a road or", "length"), "captioner_bad_answer"),
        (completion("ERROR in the model"), "captioner_bad_answer"),
    ],
)
def test_a_fault_of_the_server_is_transient_and_of_the_captioner(
    found: Answer, reason: str, server: OpenAIStandIn
) -> None:
    server.completions = [found]
    error = failure(server)
    assert isinstance(error, TransientError)
    assert (error.reason, error.reason.component) == (reason, "captioner")


@pytest.mark.parametrize(
    "found",
    [
        refusal(400, "The response was filtered", code="content_filter"),
        refusal(400, "Your input image may contain …", code="content_policy_violation"),
        completion("", "content_filter"),
        completion(None, refusal="I'm sorry, I can't help with that."),
    ],
)
def test_an_image_that_a_filter_declines_is_given_up(found: Answer, server: OpenAIStandIn) -> None:
    server.completions = [found]
    error = failure(server)
    assert isinstance(error, PermanentError)
    assert error.reason == "caption_filtered"


def test_an_array_that_is_no_image_is_refused_before_anything_is_sent(
    server: OpenAIStandIn,
) -> None:
    with pytest.raises(PermanentError) as caught:
        connect(server).caption(np.zeros((4, 4), np.uint8), timeout=TIMEOUT)
    assert caught.value.reason == "bad_image"
    assert not server.asked


def test_messages_say_what_the_server_said_in_one_short_line(server: OpenAIStandIn) -> None:
    server.completions = [refusal(400, "no\n\n such " + "thing " * 500)]
    text = str(failure(server))
    assert text.startswith("openai: HTTP 400: no such thing")
    assert len(text) < 400


def test_a_redirect_is_not_followed_and_its_target_sees_nothing(server: OpenAIStandIn) -> None:
    with local_server(lambda _: completion("A trap.")) as other:
        server.completions = [
            Answer(status, (b"",), {"Location": f"{other.url}/v1/chat/completions"})
            for status in (301, 302, 303, 307, 308)
        ]
        for _ in range(5):
            error = failure(server)
            assert error.reason == "captioner_not_found"
            assert "127.0.0.1, which is not followed" in str(error)
        server.models = Answer(307, (b"",), {"Location": f"{other.url}/v1/models"})
        with pytest.raises(TransientError, match="not followed"):
            connect(server).require_model(timeout=TIMEOUT)
        assert not other.requests


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_is_waited_for_as_long_as_the_server_asks(
    status: int, server: OpenAIStandIn, clock: Clock
) -> None:
    busy = refusal(status, "slow down", {"Retry-After": "7"})
    server.completions = [busy, busy, completion(CAPTION)]
    assert connect(server, clock.sleep).caption(SMALL, timeout=60) == CAPTION
    assert clock.slept == pytest.approx([7, 7], abs=1)


def test_a_pause_until_a_date_is_waited_for(server: OpenAIStandIn, clock: Clock) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.completions = [refusal(429, "", {"Retry-After": date}), completion(CAPTION)]
    assert connect(server, clock.sleep).caption(SMALL, timeout=60) == CAPTION
    assert clock.slept == pytest.approx([29], abs=3)


@pytest.mark.parametrize("asked", ["0", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", "0.2"])
def test_a_pause_that_is_over_lasts_a_second(
    asked: str, server: OpenAIStandIn, clock: Clock
) -> None:
    server.completions = [refusal(429, "", {"Retry-After": asked}), completion(CAPTION)]
    connect(server, clock.sleep).caption(SMALL, timeout=60)
    assert clock.slept == pytest.approx([1], abs=0.5)


@pytest.mark.parametrize("asked", ["soon", "nan", "", "Wed, 99 Foo 2015"])
def test_a_pause_of_no_length_is_none(asked: str, server: OpenAIStandIn, clock: Clock) -> None:
    server.completions = [refusal(429, "slow down", {"Retry-After": asked})]
    with pytest.raises(TransientError, match="slow down"):
        connect(server, clock.sleep).caption(SMALL, timeout=60)
    assert not clock.slept


def test_until_a_long_pause_ends_nothing_is_asked(server: OpenAIStandIn, clock: Clock) -> None:
    server.completions = [refusal(429, "quota", {"Retry-After": "1000"}), completion(CAPTION)]
    captioner = connect(server, clock.sleep)
    for _ in range(3):
        with pytest.raises(TransientError, match=r"asks for a pause, of \d+ s more") as caught:
            captioner.caption(SMALL, timeout=60)
        assert caught.value.reason == "captioner_overloaded"
        with pytest.raises(TransientError, match="asks for a pause"):
            captioner.probe(timeout=TIMEOUT)
    assert len(server.server.requests) == 1 and not clock.slept
    clock.sleep(1000)
    captioner.probe(timeout=TIMEOUT)
    assert captioner.caption(SMALL, timeout=60) == CAPTION


def test_no_pause_is_longer_than_an_hour(server: OpenAIStandIn, clock: Clock) -> None:
    server.completions = [refusal(429, "", {"Retry-After": "1e300"}), completion(CAPTION)]
    captioner = connect(server, clock.sleep)
    with suppress(TransientError):
        captioner.caption(SMALL, timeout=60)
    clock.sleep(MAX_PAUSE_SECONDS)
    assert captioner.caption(SMALL, timeout=60) == CAPTION


def test_a_model_that_knows_the_limit_by_another_name_and_no_temperature_is_asked_so(
    server: OpenAIStandIn,
) -> None:
    server.completions = [
        refusal(400, "Unsupported parameter: use 'max_completion_tokens'", param="max_tokens"),
        refusal(400, "Only the default (1) value is supported", param="temperature"),
        completion(CAPTION),
    ]
    captioner = connect(server)
    for _ in range(2):
        assert captioner.caption(SMALL, timeout=TIMEOUT) == CAPTION
    assert len(server.asked) == 4
    for body in server.asked[2:]:
        assert body["max_completion_tokens"] == 512
        assert not {"max_tokens", "temperature"} & body.keys()


def test_a_parameter_that_is_refused_twice_is_an_error(server: OpenAIStandIn) -> None:
    server.completions = [refusal(400, "use 'max_completion_tokens'", param="max_tokens")]
    assert failure(server).reason == "captioner_refused"
    assert len(server.asked) == 2


def test_an_answer_that_drips_ends_in_time(server: OpenAIStandIn) -> None:
    done = Event()

    def drip() -> Iterator[bytes]:
        while not done.wait(0.05):
            yield b" "

    server.completions = [Answer(200, drip())]
    began = time.monotonic()
    try:
        error = failure(server, timeout=1.0)
    finally:
        done.set()
    assert error.reason == "captioner_timeout"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("length", [{"Content-Length": str(10**15)}, {}])
def test_an_answer_without_end_is_not_read(length: dict[str, str], server: OpenAIStandIn) -> None:
    sent = 0

    def flood() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * MAX_LIST_BYTES:
            sent += 1 << 16
            yield b" " * (1 << 16)

    server.completions = [Answer(200, flood(), length)]
    assert failure(server).reason == "captioner_bad_answer"
    assert sent < 64 * MAX_ANSWER_BYTES
    server.models = Answer(200, flood(), length)
    with pytest.raises(TransientError, match="larger than"):
        connect(server).require_model(timeout=TIMEOUT)


def test_an_answer_that_is_compressed_is_not_read(server: OpenAIStandIn) -> None:
    server.completions = [Answer(200, (b"x",), {"Content-Encoding": "gzip"})]
    assert failure(server).reason == "captioner_bad_answer"


def test_an_answer_that_breaks_off_is_asked_for_again_later(server: OpenAIStandIn) -> None:
    server.completions = [Answer(200, (b'{"choices": ', None), {"Content-Length": "1000"})]
    assert failure(server).reason == "captioner_unavailable"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v1", "http://captioner.invalid/v1", "http://a b/v1"]
)
def test_a_server_that_is_not_there_is_unavailable(url: str, server: OpenAIStandIn) -> None:
    assert failure(server, url=url).reason == "captioner_unavailable"


def test_a_timeout_while_connecting_is_no_slow_answer(
    server: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectTimeout("no route")

    monkeypatch.setattr("inference.openai.exchange", refuse)
    assert failure(server).reason == "captioner_unavailable"


def test_requests_are_counted_by_what_their_answers_were_worth(
    server: OpenAIStandIn, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(metrics, "observe_inference", lambda *call: calls.append(call))
    server.completions = [
        refusal(429, "", {"Retry-After": "5"}),
        completion(CAPTION),
        completion(""),
    ]
    captioner = connect(server, clock.sleep)
    captioner.caption(SMALL, timeout=60)
    with suppress(TransientError):
        captioner.caption(SMALL, timeout=60)
    assert [call[:3] for call in calls] == [
        ("openai", "caption", status) for status in ("error", "success", "error")
    ]
    assert all(isinstance(call[3], float) and call[3] < 5 for call in calls)
