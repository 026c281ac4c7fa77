"""Fuzzers of what other machines answer: SAGE, the models and Weaviate, over real connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, cast

import fakeredis
import grpc  # type: ignore[import-untyped,unused-ignore]
import numpy as np
from tritonclient.grpc import service_pb2

from client import connect_triton
from demo.servers.ports import HOST
from inference.model_config import model_config
from inference.openai import OpenAIServer
from inference.registry import CAPTIONERS, EMBEDDERS, required_models
from inference.triton import contracts, require_contracts, require_models
from tests.fuzz import mutate
from tests.fuzz.fuzzer import Attempt, expected
from tests.fuzz.inputs import LINK, RECORD, check_record
from tests.fuzz.peers import HttpPeer, grpc_peer, http_answer, only_loopback, plain_answer
from tests.support.pictures import scene
from tests.support.weaviate_stand_in import StandIn
from weavloader.errors import ConfigError, PermanentError, TransientError
from weavloader.geo import Area, Location
from weavloader.http_client import new_http_client
from weavloader.images.download import Downloader
from weavloader.images.job import ImageJob
from weavloader.images.nodes import Nodes
from weavloader.provenance import traced
from weavloader.redis_connection import RedisClient
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, ImageObject, SearchQuery, Store
from weavloader.stream.sage_api import DataApi

_SECONDS = 5.0
_MAX_BYTES = 1 << 20
_MANIFEST = {
    "vsn": "W021", "name": "000048b02d15bc7c", "project": "SAGE", "address": "Chicago",
    "gps_lat": 41.7, "gps_lon": -87.9,
}  # fmt: skip
_POSITIONS = [{"name": f"sys.gps.{name}", "value": 41.5, "meta": {}} for name in ("lat", "lon")]
_FAILURES = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN,
)  # fmt: skip
_FLORENCE = {
    "<MORE_DETAILED_CAPTION>": "a ridge under snow",
    "<CAPTION_TO_PHRASE_GROUNDING>": {"labels": ["a ridge"], "bboxes": [[0, 0, 9, 9]]},
    "<DENSE_REGION_CAPTION>": {"labels": ["snow"], "bboxes": [[0, 0, 9, 9]]},
}


@contextmanager
def data_api() -> Iterator[Attempt]:
    """Answers of the data API: no good record of an answer that looks whole is lost."""
    only_loopback()
    peer, http = HttpPeer(), new_http_client(_SECONDS)
    api = DataApi(peer.url, http, seconds=_SECONDS)

    def attempt(rng: Random) -> None:
        if rng.random() < 0.5:
            body = b"\n".join(mutate.written(rng, RECORD) for _ in range(rng.randint(0, 4)))
            peer.answer = lambda _: http_answer(rng, body)
            with expected(TransientError):
                for record in api.records({}, "-1h"):
                    check_record(record)
            return
        lines = [mutate.written(rng, RECORD).replace(b"\n", b" ") for _ in range(3)]
        good = {**RECORD, "value": f"{LINK}?{rng.getrandbits(32)}"}
        lines.insert(rng.randrange(4), mutate.dumped(good))
        peer.answer = lambda _: plain_answer(b"\n".join(lines) + b"\n")
        try:
            found = [check_record(record) for record in api.records({}, "-1h")]
        except TransientError:  # over a connection that the answer before has left half closed
            found = [check_record(record) for record in api.records({}, "-1h")]
        assert ImageJob.from_record(good) in found, "a record is lost"

    with http:
        yield attempt


@contextmanager
def storage() -> Iterator[Attempt]:
    """Answers of the storage: a file, or one of our errors, within bounds."""
    only_loopback()
    peer, http = HttpPeer(), new_http_client(_SECONDS)
    downloader = Downloader(
        http, [peer.url], ("user", "pass"), _MAX_BYTES, seconds=_SECONDS,
        public_hosts=["http://localhost:1"],
    )  # fmt: skip

    def attempt(rng: Random) -> None:
        body = rng.choice((b"", b"\xff\xd8\xff", rng.randbytes(300), bytes(_MAX_BYTES + 1)))
        peer.answer = lambda _: http_answer(rng, body)
        name = mutate.text(rng)[:300] if rng.random() < 0.3 else "a.jpg"
        with expected(TransientError, PermanentError):
            assert 0 < len(downloader.fetch(f"{peer.url}/{name}", "n")) <= _MAX_BYTES

    with http:
        yield attempt


@contextmanager
def manifests() -> Iterator[Attempt]:
    """Manifests and live positions: a node, or one of our errors."""
    only_loopback()
    peer, http = HttpPeer(), new_http_client(_SECONDS)
    redis = fakeredis.FakeRedis()
    client = cast("RedisClient", redis)
    api = DataApi(peer.url, http, seconds=_SECONDS)

    def attempt(rng: Random) -> None:
        redis.flushall()
        nodes = Nodes(http, api, client, peer.url, 0.0, 60.0, seconds=_SECONDS)
        manifest = mutate.written(rng, rng.choice(([_MANIFEST], _MANIFEST)))
        positions = b"\n".join(mutate.written(rng, each) for each in _POSITIONS) + b"\n"
        peer.answer = lambda head: http_answer(
            rng, positions if head.startswith(b"POST") else manifest
        )
        for _ in range(2):  # the second time with what is remembered of the first
            with expected(TransientError):
                node = nodes.describe(
                    "W021", datetime.now(UTC) - timedelta(minutes=rng.choice((1, 99)))
                )
                json.dumps([node.project, node.address])
                assert node.location is None or abs(node.location.latitude) <= 90
            with expected(TransientError):
                assert nodes.vsn_of("000048b02d15bc7c")

    with http:
        yield attempt


@contextmanager
def captioner() -> Iterator[Attempt]:
    """Answers of a server with OpenAI's API: a caption, or one of our errors, within bounds."""
    only_loopback()
    peer, http = HttpPeer(), new_http_client(_SECONDS)
    message = {"role": "assistant", "content": "A ridge under snow.", "refusal": None}
    completion = {
        "model": "gemma3:4b",
        "system_fingerprint": "fp",
        "choices": [{"message": message, "finish_reason": "stop"}],
    }
    error = {"error": {"message": "no", "type": "x", "param": "temperature", "code": "y"}}
    models = {"data": [{"id": "gemma3:4b"}]}
    image = np.asarray(scene((40, 30)))

    def attempt(rng: Random) -> None:
        server = OpenAIServer(http, peer.url, "gemma3:4b", "key", sleep=lambda _: None)
        said = mutate.written(rng, rng.choice((completion, completion, error, models)))
        peer.answer = lambda _: http_answer(rng, said)
        with expected(TransientError, PermanentError):
            caption, provenance = traced(lambda: server.caption(image, timeout=_SECONDS))
            assert 0 < len(caption) <= model_config().caption_max_characters
            json.dumps(provenance.as_json()).encode()
        with expected(TransientError):
            server.require_model(timeout=_SECONDS)
        with expected(TransientError):
            server.probe(timeout=_SECONDS)

    with http:
        yield attempt


@contextmanager
def triton() -> Iterator[Attempt]:
    """Answers of Triton: a caption, a vector, or one of our errors."""
    only_loopback()
    image = np.asarray(scene((40, 30)))
    names = required_models("gemma3", EMBEDDERS)
    with grpc_peer() as (peer, port):
        client = connect_triton(load_settings(triton_host=HOST, triton_port=str(port)))

        def attempt(rng: Random) -> None:
            peer.answer = lambda method, request, context: _triton_answer(
                rng, method, request, context
            )
            with expected(TransientError, PermanentError, ConfigError):
                caption = CAPTIONERS[rng.choice(list(CAPTIONERS))](client, image, timeout=_SECONDS)
                assert caption.strip() and len(caption) <= 4000
                caption.encode()
            with expected(TransientError, PermanentError, ConfigError):
                name = rng.choice(list(EMBEDDERS))
                vector = EMBEDDERS[name](client, "snow", image, timeout=_SECONDS)
                assert vector.dtype == np.float32 and np.isfinite(vector).all() and vector.any()
            with expected(TransientError, PermanentError, ConfigError):
                require_models(client, names, timeout=_SECONDS)
            with expected(TransientError, PermanentError, ConfigError):
                require_contracts(client, names, timeout=_SECONDS)

        yield attempt


def _triton_answer(rng: Random, method: str, request: bytes, context: Any) -> bytes:
    if rng.random() < 0.1:
        context.abort(rng.choice(_FAILURES), mutate.text(rng)[:9000])
    if method == "ModelReady":
        answer: Any = service_pb2.ModelReadyResponse(ready=True)
    elif method == "ModelMetadata":
        answer = _metadata(service_pb2.ModelMetadataRequest.FromString(request).name)
    else:
        answer = _inference(rng, service_pb2.ModelInferRequest.FromString(request))
    whole = bytes(answer.SerializeToString())
    return whole if rng.random() < 0.4 else mutate.data(rng, [whole])


def _metadata(name: str) -> Any:
    contract = contracts()[name]
    answer = service_pb2.ModelMetadataResponse(name=name)
    for told, expected_ones in (
        (answer.inputs, contract.inputs),
        (answer.outputs, contract.outputs),
    ):
        for tensor, (kind, shape) in expected_ones.items():
            told.add(name=tensor, datatype=kind, shape=shape)
    return answer


def _inference(rng: Random, request: Any) -> Any:
    """An answer whose tensors are as they should be, now and then with another shape or value."""
    answer = service_pb2.ModelInferResponse(model_name=request.model_name)
    for asked in request.outputs:
        kind, shape = contracts()[request.model_name].outputs[asked.name]
        sizes = [3 * 128 if side < 0 else side for side in shape]
        content = _content(rng, request.model_name, kind, sizes[-1])
        if rng.random() < 0.2:
            sizes = [rng.choice((0, 1, 2, -1, 2**31, 2**62)) for _ in range(rng.randint(0, 3))]
        kind = rng.choice((kind, kind, kind, "BYTES", "FP32", "INT32", "BF16", "FP16", "", "X"))
        answer.outputs.add(name=asked.name, datatype=kind, shape=sizes)
        answer.raw_output_contents.append(content)
    return answer


def _content(rng: Random, model: str, kind: str, size: int) -> bytes:
    if kind == "INT32":
        return np.array([rng.choice((3, 3, 3, 0, -1, 4, 2**31 - 1))], dtype=np.int32).tobytes()
    if kind == "FP32":
        vector = np.full(size, 0.1, dtype=np.float32)
        vector[: rng.choice((0, 1, size))] = rng.choice((0.0, np.nan, np.inf, 3e38, 1e-45))
        return vector.tobytes()
    text = mutate.dumped(_FLORENCE) if model.startswith("florence") else b"A ridge under snow."
    if rng.random() < 0.6:
        text = (
            mutate.written(rng, _FLORENCE)
            if model.startswith("florence")
            else mutate.data(rng, [text])
        )
    if rng.random() < 0.1:
        text *= 1 + rng.choice((50_000, 20 << 20)) // (1 + len(text))
    return len(text).to_bytes(4, "little") + text


@contextmanager
def weaviate() -> Iterator[Attempt]:
    """Answers of Weaviate, REST and gRPC: what was asked for, or one of our errors."""
    only_loopback()
    with StandIn() as server:
        settings = load_settings(
            vector_store="weaviate", weaviate_collection="Fuzzed", store_timeout="5",
            **server.settings,
        )  # fmt: skip
        job = ImageJob.from_record(RECORD)
        texts = {
            **job.to_message(),
            "link": job.url,
            "caption": "snow",
            "project": "p",
            "address": "a",
        }
        texts.pop("url")
        vectors = {"clip": np.ones(1024, dtype=np.float32)}
        item = ImageObject(texts, job.captured_at, b"\xff", vectors, Location(41.7, -87.9))
        store: Store = connect_store(settings)
        store.prepare()
        store.upsert([item])

        def attempt(rng: Random) -> None:
            server.faults.garble = lambda answer: (
                answer if rng.random() < 0.3 or not answer else mutate.data(rng, [answer])
            )
            try:
                with expected(TransientError, PermanentError, ConfigError):
                    _ask(rng, store, item)
            finally:
                server.heal()
            store.upsert([item])
            assert store.existing([job.url]) == {job.url}, "it does not recover"

        yield attempt
        store.close()


def _ask(rng: Random, store: Store, item: ImageObject) -> None:
    filters = Filters(near=Area(Location(41.0, -87.0), 500.0)) if rng.random() < 0.3 else Filters()
    query = SearchQuery("snow", item.vectors["clip"], filters=filters, explain=True)
    questions = (
        lambda: store.existing([item.text["link"]]),
        lambda: store.upsert([item]),
        lambda: store.get(item.id),
        lambda: list(zip(range(3), store.scan(), strict=False)),
        lambda: store.search(query),
        lambda: store.newest(filters, 5),
        lambda: store.count(),
        lambda: store.schema(),
        lambda: store.prepare(),
    )
    rng.choice(questions)()
