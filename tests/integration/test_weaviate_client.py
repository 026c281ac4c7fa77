"""What the store relies on in weaviate-client beyond its public interface.

See ``docs/patched-libraries.md``; these tests fail when the client changes there.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc  # type: ignore[import-untyped,unused-ignore]
import pytest

from demo.servers.ports import free_ports
from tests.support.store_contract import an_image
from tests.support.weaviate_stand_in import StandIn
from weavloader.errors import TransientError
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import SearchQuery, Store
from weavloader.store.weaviate import client
from weavloader.store.weaviate.client import grpc_code

ROOT = Path(__file__).parents[2]
CALLS: dict[str, Callable[[Store], object]] = {
    "Search": lambda store: store.search(SearchQuery("fox")),
    "Aggregate": lambda store: store.count(),
    "BatchObjects": lambda store: store.upsert([an_image()]),
}
# Seconds; a healthy server answers within them on a busy machine too.
TIMEOUT = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    """A stand-in for all tests here."""
    with StandIn() as server:
        yield server


@pytest.fixture
def settings(server: StandIn) -> Settings:
    """A collection of the test's own on a server without faults."""
    server.heal()
    return load_settings(
        vector_store="weaviate",
        weaviate_collection=f"Test{uuid.uuid4().hex}",
        store_timeout=str(TIMEOUT),
        **server.settings,
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """A store that is prepared."""
    store = connect_store(settings)
    store.prepare()
    yield store
    store.close()


def test_the_replaced_class_has_the_signatures_that_the_client_calls() -> None:
    theirs, ours = importlib.import_module("weaviate.retry")._Retry, client._RetryOnce
    assert importlib.import_module("weaviate.connect.v4")._Retry is ours
    for name in ("__init__", "with_exponential_backoff"):
        theirs_takes = list(inspect.signature(getattr(theirs, name)).parameters.values())
        ours_takes = list(inspect.signature(getattr(ours, name)).parameters.values())
        assert [each.kind for each in ours_takes] == [each.kind for each in theirs_takes]
        required = [each.default is each.empty for each in theirs_takes]
        assert [each.default is each.empty for each in ours_takes] == required
    public = {name for name in vars(theirs) if not name.startswith("_")}
    assert public == {"with_exponential_backoff", "awith_exponential_backoff"}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_the_server_cannot_serve_is_sent_twice(
    store: Store, server: StandIn, call: str
) -> None:
    server.calls.clear()
    server.faults.unavailable = True
    with pytest.raises(TransientError) as caught:
        CALLS[call](store)
    assert caught.value.reason == "store_unreachable"
    assert [each.split()[0] for each in server.calls] == [call, call]


@pytest.mark.parametrize("call", CALLS)
def test_a_dead_port_is_noticed_at_the_timeout(store: Store, settings: Settings, call: str) -> None:
    (nowhere,) = free_ports(1)
    dead = connect_store(settings.model_copy(update={"weaviate_grpc_port": nowhere}))
    with closing(dead):
        dead.existing([])  # connects over HTTP
        began = time.monotonic()
        with pytest.raises(TransientError) as caught:
            CALLS[call](dead)
    assert caught.value.reason == "store_unreachable"
    assert time.monotonic() - began < 3 * TIMEOUT


@pytest.mark.parametrize("call", CALLS)
def test_the_status_of_grpc_is_found_behind_the_clients_error(
    store: Store, server: StandIn, call: str
) -> None:
    server.faults.key_expired = True
    with pytest.raises(TransientError) as caught:
        CALLS[call](store)
    theirs = caught.value.__cause__
    assert isinstance(theirs, client.exceptions.WeaviateBaseError)
    assert grpc_code(theirs) == grpc.StatusCode.UNAUTHENTICATED


def test_the_detail_of_a_failed_connection_is_found_behind_the_clients_error(
    settings: Settings,
) -> None:
    (nowhere,) = free_ports(1)
    store = connect_store(settings.model_copy(update={"weaviate_port": nowhere}))
    with pytest.raises(TransientError, match="Connection refused"):
        store.prepare()
    store.close()


def test_the_client_logs_no_object_that_is_rejected(
    store: Store, server: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    assert importlib.import_module("weaviate.logger").logger.name == "weaviate-client"
    server.faults.refuse = lambda link: "invalid text property" if link == "1" else ""
    with pytest.raises(Exception, match="1 of 2"):
        store.upsert([an_image("1"), an_image("2")])
    assert not [record for record in caplog.records if record.name == "weaviate-client"]


def test_importing_the_client_prints_no_warning() -> None:
    command = [sys.executable, "-c", "import weavloader.store.weaviate.client"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
