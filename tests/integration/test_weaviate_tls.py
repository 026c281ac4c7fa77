"""The Weaviate store over TLS, to a stand-in with a certificate of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from tests.support.certificate import write_certificate
from tests.support.store_contract import an_image
from tests.support.weaviate_stand_in import StandIn
from weavloader.errors import TransientError
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A key and its certificate."""
    return write_certificate(tmp_path)


@pytest.fixture
def settings(certificate: tuple[Path, Path]) -> Iterator[Settings]:
    """A server that speaks TLS on both ports."""
    with StandIn(certificate) as server:
        yield load_settings(
            vector_store="weaviate", weaviate_secure=True, store_timeout="5", **server.settings
        )


def test_with_a_certificate_that_is_trusted_both_ports_are_used_over_tls(
    settings: Settings, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = str(certificate[1])
    monkeypatch.setattr(certifi, "where", lambda: trusted)
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", trusted)
    store = connect_store(settings)
    store.prepare()
    store.upsert([an_image()])
    assert store.count() == 1
    store.close()


def test_a_certificate_that_nobody_vouches_for_gets_no_key(settings: Settings) -> None:
    store = connect_store(settings)
    with pytest.raises(TransientError, match="certificate verify failed"):
        store.prepare()
    store.close()


def test_a_server_without_tls_gets_no_key_where_tls_is_wanted() -> None:
    with StandIn() as server:
        settings = load_settings(
            vector_store="weaviate", weaviate_secure=True, store_timeout="2", **server.settings
        )
        store = connect_store(settings)
        with pytest.raises(TransientError):
            store.prepare()
        assert not server.calls
        store.close()
