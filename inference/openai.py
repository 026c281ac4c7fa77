"""Captions by any server that offers OpenAI's chat completions: vLLM, Ollama, llama.cpp, ….

What a server answers decides what becomes of an image, as it does of Triton's answers. Only what
the content filter declines is the image's own fault: the requests for two images differ in nothing
but their pixels, which have one size, so whatever else is refused is refused for all of them, and
they wait for the operator.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from PIL import Image

from inference.model_config import ImageLimit, model_config
from inference.tensors import RGBImage, checked_text, clean_text, reduce_image, tidy_caption
from metrics import metrics
from weavloader import traces
from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError
from weavloader.http_client import (
    EncodedError,
    TooLargeError,
    exchange,
    read,
    read_error,
    shown,
)
from weavloader.provenance import UNKNOWN, ServedModel, record_call
from weavloader.settings import OPENAI

# Many times a caption, so that a reasoning model's thoughts may come with it.
MAX_ANSWER_BYTES = 1 << 20
# Large providers offer hundreds of models, each with a page of details.
MAX_LIST_BYTES = 8 << 20
# A server that asks for more is asked again after it.
MAX_PAUSE_SECONDS = 3600.0
_MIN_PAUSE_SECONDS = 1.0
_JPEG_QUALITY = 90
_SHOWN_CHARACTERS = 300
_SHOWN_MODELS = 20
_NAME_CHARACTERS = 80
_REASONS = {
    401: Reason.CAPTIONER_AUTH,
    402: Reason.CAPTIONER_AUTH,
    403: Reason.CAPTIONER_AUTH,
    404: Reason.CAPTIONER_NOT_FOUND,
    405: Reason.CAPTIONER_NOT_FOUND,
    408: Reason.CAPTIONER_TIMEOUT,
    429: Reason.CAPTIONER_OVERLOADED,
    502: Reason.CAPTIONER_UNAVAILABLE,
    503: Reason.CAPTIONER_UNAVAILABLE,
    504: Reason.CAPTIONER_TIMEOUT,
}
_MAY_ASK_FOR_A_PAUSE = (429, 503)
_FILTERED = ("content_filter", "content_policy_violation")
# Servers have no common code for these.
_CONTEXT = re.compile(r"context[ _](length|size|window)|max_model_len|maximum model length", re.I)
_NO_MODEL = re.compile(r"model\b.*\b(not found|does not exist)|not a valid model", re.I)
# Where the server does not take a reasoning model's thoughts out of its answer.
_THOUGHTS = re.compile(r"^\s*<think>.*?(</think>|\Z)", re.S)
_DOWN = (
    Reason.CAPTIONER_UNAVAILABLE,
    Reason.CAPTIONER_TIMEOUT,
    Reason.CAPTIONER_OVERLOADED,
    Reason.CAPTIONER_AUTH,
)

logger = logging.getLogger(__name__)


class OpenAIServer:
    """A server and its model, for one process.

    Args:
        http: Made by ``new_http_client``, which follows no redirect: the key goes to no other host.
        base_url: What ``/chat/completions`` follows, without a slash at its end.
        model: As the server names it.
        key: Empty for a server that asks for none.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        http: httpx.Client,
        base_url: str,
        model: str,
        key: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._model = model
        self._auth = _Bearer(key) if key else None
        self._sleep = sleep
        self._not_before = 0.0
        # Newer models of OpenAI know the limit by another name, and no temperature.
        self._limit_name = "max_tokens"
        self._sampling: dict[str, float] = {"temperature": 0}

    def caption(self, image: RGBImage, *, timeout: float) -> str:
        """The model's answer to ``CAPTION_PROMPT`` about an image.

        Where the server asks for a pause (``Retry-After``), it is waited for, if it ends in time.

        Args:
            image: Shape [H, W, 3]; reduced to ``OPENAI_MAX_PIXELS``, and sent as a JPEG.
            timeout: Seconds, pauses included.

        Raises:
            PermanentError: The image was refused.
            TransientError: Any other failure of the server or the model.
        """
        deadline = time.monotonic() + timeout
        question = _question(image)
        while True:
            self._pause(deadline)
            answer = self._complete(question, deadline - time.monotonic())
            if isinstance(answer, str):
                return answer
            if not (answer.pause or self._adapts_to(answer)):
                raise answer.as_error()

    def require_model(self, *, timeout: float) -> None:
        """Check that the server accepts the key and offers the model; nothing is inferred.

        Raises:
            TransientError: It does not; the message lists the models that it offers.
        """
        offered = self._models(timeout)
        # Ollama adds the tag.
        if {_name(self._model), f"{self._model}:latest"}.isdisjoint(offered):
            more = len(offered) - _SHOWN_MODELS
            names = ", ".join(offered[:_SHOWN_MODELS]) or "none"
            message = f"{OPENAI}: no model {self._model!r}; {self._base_url} offers {names}"
            message += f" and {more} more" if more > 0 else ""
            raise TransientError(message, reason=Reason.CAPTIONER_NOT_FOUND)

    def probe(self, *, timeout: float) -> None:
        """Check that a request may be tried: a server need not list its models.

        Raises:
            TransientError: The server is down, has asked for a pause, or refuses the key.
        """
        self._pause(time.monotonic())
        try:
            self._models(timeout)
        except TransientError as error:
            if error.reason in _DOWN:
                raise

    def close(self) -> None:
        """Close the connections that are kept."""
        self._http.close()

    def _pause(self, deadline: float) -> None:
        pause = self._not_before - time.monotonic()
        if pause <= 0:
            return
        if self._not_before >= deadline:
            message = f"{OPENAI}: the server asks for a pause, of {pause:.0f} s more"
            raise TransientError(message, reason=Reason.CAPTIONER_OVERLOADED)
        self._sleep(pause)

    def _complete(self, question: list[dict[str, Any]], seconds: float) -> str | _Fault:
        """A caption, or why there is none. Each request counts as a call of the model."""
        limit = {self._limit_name: model_config().openai_max_new_tokens}
        asked = {"model": self._model, "messages": question, **limit, **self._sampling}
        started, status = time.perf_counter(), "error"
        try:
            with traces.span(f"{OPENAI} caption", traces.Kind.CALL):
                body = self._exchange(
                    "POST", "/chat/completions", seconds, MAX_ANSWER_BYTES, json=asked
                )
            if isinstance(body, _Fault):
                self._note_pause(body)
                return body
            caption, served = _read_completion(body, self._model)
            status = "success"
            record_call(lambda: served, model_config().caption_prompt)
            return caption
        finally:
            metrics.observe_inference(OPENAI, "caption", status, time.perf_counter() - started)

    def _note_pause(self, fault: _Fault) -> None:
        if fault.pause:
            self._not_before = time.monotonic() + fault.pause
            logger.info("captioner asks for a pause of %.0f s: %s", fault.pause, fault)

    def _adapts_to(self, fault: _Fault) -> bool:
        """Whether the same request without what the model does not know is worth a try."""
        if "max_completion_tokens" in fault.message and self._limit_name == "max_tokens":
            self._limit_name = "max_completion_tokens"
            return True
        if fault.parameter == "temperature" and self._sampling:
            self._sampling = {}
            return True
        return False

    def _models(self, timeout: float) -> list[str]:
        body = self._exchange("GET", "/models", timeout, MAX_LIST_BYTES)
        if isinstance(body, _Fault):
            raise body.as_error()
        try:
            return [_name(model["id"]) for model in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"{self._base_url}/models gives no list of models"
            raise _error(message, Reason.CAPTIONER_NOT_FOUND) from error

    def _exchange(
        self, method: str, path: str, seconds: float, max_bytes: int, json: object = None
    ) -> bytes | _Fault:
        """The body of a good answer.

        Raises:
            TransientError: There is no answer, or not in time, or it is too large.
        """
        url = f"{self._base_url}{path}"
        try:
            with exchange(
                self._http, method, url, seconds=seconds, auth=self._auth, json=json
            ) as answer:
                if answer.is_success:
                    return read(answer, max_bytes)
                return _Fault.of(answer, url)
        except (TooLargeError, EncodedError) as error:
            raise _error(str(error), Reason.CAPTIONER_BAD_ANSWER) from error
        except httpx.ConnectTimeout as error:
            raise _error(f"{url}: {shown(error)}", Reason.CAPTIONER_UNAVAILABLE) from error
        except httpx.TimeoutException as error:
            message = f"no answer within {seconds:.0f} s"
            raise _error(message, Reason.CAPTIONER_TIMEOUT) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _error(f"{url}: {shown(error)}", Reason.CAPTIONER_UNAVAILABLE) from error


class _Bearer(httpx.Auth):
    """The key, in a header of the request and in no ``repr``."""

    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


@dataclass(frozen=True, slots=True)
class _Fault:
    """An answer that is none.

    Attributes:
        code: The server's word for it; empty if it has none.
        parameter: Of the request, which it is about; empty if it names none.
        pause: Seconds for which the server asks to be left alone; 0 if it does not.
    """

    status: int
    message: str
    code: str = ""
    parameter: str = ""
    pause: float = 0.0

    @classmethod
    def of(cls, answer: httpx.Response, url: str) -> _Fault:
        """What an answer says."""
        status, asked = answer.status_code, answer.headers.get("retry-after", "")
        pause = _seconds(asked) if status in _MAY_ASK_FOR_A_PAUSE else 0.0
        if answer.next_request is not None:
            host = _name(answer.next_request.url.host)
            message = f"{url} redirects to {host}, which is not followed"
            return cls(status, message)
        text = read_error(answer)
        fields = _error_fields(text)
        said = str(fields.get("message") or text or "no message")
        if status == httpx.codes.NOT_FOUND and "model" not in said:
            said = f"no {url}; OPENAI_BASE_URL ends in /v1 on most servers"
        if status == httpx.codes.UNAUTHORIZED:
            said = f"OPENAI_API_KEY is refused: {said}"
        return cls(
            status,
            " ".join(said.split())[:_SHOWN_CHARACTERS],
            str(fields.get("code") or fields.get("type") or ""),
            str(fields.get("param") or ""),
            pause,
        )

    def __str__(self) -> str:
        """Status and message."""
        return f"HTTP {self.status}: {self.message}"

    def as_error(self) -> WeavloaderError:
        """The error to raise."""
        if self.code in _FILTERED:
            return PermanentError(f"{OPENAI}: {self}", reason=Reason.CAPTION_FILTERED)
        return _error(str(self), self._reason())

    def _reason(self) -> Reason:
        if self.status in _REASONS:
            return _REASONS[self.status]
        if httpx.codes.is_redirect(self.status):
            return Reason.CAPTIONER_NOT_FOUND
        said = f"{self.code} {self.message}"
        if _CONTEXT.search(said):
            return Reason.CAPTIONER_CONTEXT
        if _NO_MODEL.search(said):
            return Reason.CAPTIONER_NOT_FOUND
        if httpx.codes.is_client_error(self.status):
            return Reason.CAPTIONER_REFUSED
        return Reason.CAPTIONER_ERROR


def _question(image: RGBImage) -> list[dict[str, Any]]:
    """The messages of a request."""
    config, file = model_config(), io.BytesIO()
    pixels = reduce_image(image, ImageLimit(config.openai_max_pixels))
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(file.getbuffer()).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
    text = {"type": "text", "text": config.caption_prompt}
    return [{"role": "user", "content": [picture, text]}]


def _read_completion(body: bytes, model: str) -> tuple[str, ServedModel]:
    """The caption, and what the server says of the model that it had asked."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        said, refusal = _text(message.get("content")), message.get("refusal")
        served = ServedModel(
            _name(completion.get("model") or model),
            _name(completion.get("system_fingerprint") or UNKNOWN),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        shown = body[:_SHOWN_CHARACTERS].decode(errors="replace")
        raise _error(f"no completion in {shown!r}", Reason.CAPTIONER_BAD_ANSWER) from error
    if ended in _FILTERED or refusal:
        why = f"declined: {str(refusal or ended)[:_SHOWN_CHARACTERS]}"
        raise PermanentError(f"{OPENAI}: {why}", reason=Reason.CAPTION_FILTERED)
    try:
        return tidy_caption(checked_text(_THOUGHTS.sub("", said))), served
    except TransientError as error:
        message = f"{error} (finish_reason {ended})"
        raise _error(message, Reason.CAPTIONER_BAD_ANSWER) from error


def _name(told: object) -> str:
    """A name that a server tells, of bounded length and without control characters."""
    return clean_text(str(told))[:_NAME_CHARACTERS]


def _text(content: Any) -> str:
    """The text of a message, whole or in parts; blank where there is none."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    if not isinstance(content, str | None):
        raise TypeError("content is no text")
    return content or ""


def _error_fields(text: str) -> dict[str, Any]:
    """What the body of an error says; servers put it in one of three ways."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    error = found.get("error", found.get("detail", found))
    return error if isinstance(error, dict) else {"message": error}


def _seconds(asked: str) -> float:
    """The pause that a ``Retry-After`` asks for, which holds seconds or a date; 0 for none."""
    try:
        seconds = float(asked)
    except ValueError:
        try:
            until = parsedate_to_datetime(asked)
        except ValueError:
            return 0.0
        seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    # NaN is no number of seconds.
    return min(max(seconds, _MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS) if seconds == seconds else 0.0


def _error(message: str, reason: Reason) -> TransientError:
    return TransientError(f"{OPENAI}: {message}", reason=reason)
