"""A server of OpenAI's chat completions that captions, or fails as a test says."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from inference.openai import OpenAIServer
from tests.support.local_server import Answer, LocalServer, Request, local_server
from weavloader.http_client import new_http_client

MODEL = "gemma3:4b"
KEY = "sk-a-key-for-nobody-else"
CAPTION = "A gravel road beside a green field under grey clouds."


def completion(content: object, finish_reason: str = "stop", **message: object) -> Answer:
    """A completion that holds ``content``."""
    said = {"role": "assistant", "content": content, **message}
    return answer(200, {"choices": [{"message": said, "finish_reason": finish_reason}]})


def refusal(
    status: int, message: str, headers: dict[str, str] | None = None, **more: str
) -> Answer:
    """An error, as OpenAI writes it."""
    found = answer(status, {"error": {"message": message, **more}})
    found.headers.update(headers or {})
    return found


def answer(status: int, body: object) -> Answer:
    """A whole answer, in JSON."""
    data = json.dumps(body).encode()
    return Answer(status, (data,), {"Content-Length": str(len(data))})


@dataclass(slots=True)
class OpenAIStandIn:
    """The server as its test sees it.

    Attributes:
        completions: Answers of the next requests for a completion; the last one stays.
        models: Answered to who asks for the models.
        key: Whoever has another is refused; empty to ask for none.
    """

    server: LocalServer
    completions: list[Answer]
    models: Answer
    key: str = KEY

    @property
    def url(self) -> str:
        """What ``OPENAI_BASE_URL`` is set to."""
        return f"{self.server.url}/v1"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of the requests for a completion."""
        return [json.loads(each.body) for each in self.server.requests if each.body]

    def answer(self, request: Request) -> Answer:
        """The answer to any request."""
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return refusal(401, "Incorrect API key provided")
        if request.path == "/v1/models":
            return self.models
        if request.path != "/v1/chat/completions":
            return Answer(404, (b"404 page not found",))
        return self.completions.pop(0) if len(self.completions) > 1 else self.completions[0]


@contextmanager
def openai_stand_in(*completions: Answer) -> Iterator[OpenAIStandIn]:
    """Run a server that gives these answers in turn; by default it captions."""
    models = answer(200, {"object": "list", "data": [{"id": MODEL}, {"id": "llava:7b"}]})
    with local_server(lambda request: stand_in.answer(request)) as server:
        stand_in = OpenAIStandIn(server, list(completions) or [completion(CAPTION)], models)
        yield stand_in


def picture_in(body: dict[str, Any]) -> Image.Image:
    """The picture that a request holds."""
    (message,) = body["messages"]
    (url,) = (part["image_url"]["url"] for part in message["content"] if "image_url" in part)
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)), formats=("JPEG",))


def connect(
    server: OpenAIStandIn,
    sleep: Callable[[float], None] = time.sleep,
    url: str = "",
    key: str = KEY,
    model: str = MODEL,
) -> OpenAIServer:
    """A client of the stand-in."""
    return OpenAIServer(new_http_client(20.0), url or server.url, model, key, sleep)
