"""A fuzzer of visitors: what they ask of the pages, and the pictures that they send."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from unittest.mock import patch
from urllib.parse import quote, quote_from_bytes
from xml.etree import ElementTree

import fakeredis
import httpx

from tests.fuzz import mutate
from tests.fuzz.fuzzer import Attempt
from tests.fuzz.inputs import picture_files
from tests.support.pages import HOSTILE, NOW, SNOW, STREET, an_image, keep, served
from weavloader.geo import Location
from weavloader.settings import load_settings
from web.handler import PageHandler
from web.server import ROUTES

STORED = [
    an_image(
        f"n{n}",
        f"{HOSTILE} {n}" if n % 2 else f"snow {n}",
        SNOW if n % 3 else STREET,
        minutes_ago=60 + n,
        camera=HOSTILE,
        vsn=HOSTILE if n % 4 == 0 else "W021",
        location=Location(41.9, -87.6) if n % 2 else None,
    )
    for n in range(12)
]
# Of each argument something that is valid, so that others beside it are read too.
VALID: Mapping[str, tuple[str, ...]] = {
    "q": ("snow", "snow last 3 days", '"a b" -c', "yesterday"),
    "like": (STORED[0].id, STORED[1].id),
    "unlike": (STORED[2].id,),
    "vsn": ("W021",),
    "camera": ("top",),
    "since": ("7d", "2026-01-31"),
    "until": (f"{NOW:%Y-%m-%d}",),
    "near": ("41.88, -87.63", "-90, 180"),
    "within": ("0.1", "20000"),
    "alpha": ("0", "1", "0.5"),
    "sort": ("score", "newest", "oldest"),
    "weak": ("1",),
    "fold": ("0", "1"),
    "page": ("1", "2", "1000"),
    "limit": ("1", "100"),
    "size": ("dense", "full"),
}
_METHODS = ("GET", "GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_Check = Callable[[httpx.Response], object]
_READERS: Mapping[str, _Check] = {
    "application/json": lambda answer: json.loads(answer.content),
    "application/jsonl": lambda answer: [json.loads(line) for line in answer.iter_lines()],
    "application/atom+xml": lambda answer: ElementTree.fromstring(answer.content),
    "text/csv": lambda answer: list(csv.DictReader(io.StringIO(answer.text), strict=True)),
}


@contextmanager
def visitors() -> Iterator[Attempt]:
    """Requests: each is answered, with nothing that is the server's fault, and is what it says."""
    pictures = picture_files()
    redis = fakeredis.FakeRedis()

    @contextmanager
    def session(_: object) -> Iterator[object]:
        yield redis

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store"
        settings = load_settings(vector_store="embedded", embedded_store_path=str(folder))
        keep(settings, STORED)
        stack.enter_context(patch("web.server.redis_session", session))
        by_text = lambda *_: lambda text: STREET if "street" in text else SNOW  # noqa: E731
        stack.enter_context(patch("web.search_service.connect_embedder", by_text))
        by_both = lambda *_: lambda text, pixels: SNOW  # noqa: E731
        stack.enter_context(patch("web.search_service.connect_image_embedder", by_both))
        client = stack.enter_context(served(settings))
        found = re.search(r'name="_xsrf" value="([^"]+)"', client.get("/").text)
        token = found[1] if found else ""

        def attempt(rng: Random) -> None:
            if rng.random() < 0.1:
                check(send_picture(rng, client, token, pictures))
            else:
                path, method = _address(rng), rng.choice(_METHODS)
                fields = {"_xsrf": token, "action": _sent(rng)} if method == "POST" else None
                check(client.request(method, path, data=fields))

        yield attempt


def send_picture(
    rng: Random, client: httpx.Client, token: str, pictures: list[bytes]
) -> httpx.Response:
    """A form with a picture, and fields that may be odd."""
    fields = {"_xsrf": token} | {name: _value(rng, name) for name in _some(rng, VALID, 2)}
    data = mutate.data(rng, pictures) if rng.random() < 0.8 else rng.randbytes(200)
    return client.post("/picture", data=fields, files={"picture": (_sent(rng), data)})


def _sent(rng: Random) -> str:
    """A text that an HTTP client can send."""
    return mutate.text(rng)[:50].encode(errors="replace").decode()


def check(answer: httpx.Response) -> None:
    """Raise where an answer is none, or is not what its header says."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    text = answer.text if kind.startswith("text/") else ""
    assert answer.status_code < 500, f"{answer.status_code} for {answer.url}: {text[:300]}"
    if answer.request.method != "HEAD" and answer.content and answer.status_code != 304:
        if read := _READERS.get(kind):
            read(answer)
    if kind == "text/html":
        assert "<script>alert" not in text, f"markup in the page of {answer.url}"
        assert answer.headers["Content-Security-Policy"], answer.url


def _address(rng: Random) -> str:
    pattern, handler = rng.choice(list(ROUTES.items()))
    path = re.sub(r"\(.*?\)", lambda _: _id(rng), pattern).replace("\\", "")
    pairs = [(name, _value(rng, name)) for name in _some(rng, _names(handler), 4)]
    return path + ("?" + "&".join(map("=".join, pairs)) if pairs else "")


def _names(handler: type[PageHandler]) -> list[str]:
    return [*(handler.arguments or VALID), "nosuch"]


def _some(rng: Random, names: Mapping[str, object] | list[str], most: int) -> list[str]:
    known = list(names)
    return [rng.choice(known) for _ in range(rng.randint(0, most))]


def _id(rng: Random) -> str:
    choice = rng.random()
    if choice < 0.6:
        return rng.choice(STORED).id
    return _quoted(rng, mutate.text(rng)[:200]) or "x"


def _value(rng: Random, name: str) -> str:
    valid = VALID.get(name, ("x",))
    if rng.random() < 0.6:
        return quote(rng.choice(valid))
    return _quoted(rng, mutate.text(rng)[:3000])


def _quoted(rng: Random, text: str) -> str:
    data = text.encode(errors="surrogatepass")
    return quote_from_bytes(mutate.data(rng, [data]) if rng.random() < 0.3 else data, safe="")
