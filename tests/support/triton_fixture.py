"""A real Triton that serves the preview repository, shared by the tests of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tritonclient.grpc import InferenceServerClient

from demo.servers.triton import Triton


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A running server on free ports; ``triton.url`` is its gRPC address."""
    with Triton(tmp_path_factory.mktemp("triton") / "triton.log") as server:
        yield server


@pytest.fixture
def triton_client(triton: Triton) -> Iterator[InferenceServerClient]:
    """A client of the ``triton`` server."""
    client = InferenceServerClient(triton.url)
    yield client
    client.close()
