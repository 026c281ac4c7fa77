"""The served models, started once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from demo.servers.triton import Triton
from tools.served_models import make_weights, serve


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny weights for each model."""
    folder = tmp_path_factory.mktemp("weights")
    make_weights(folder)
    return folder


@pytest.fixture(scope="session")
def batching(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """The server as an operator runs it."""
    with serve(weights, tmp_path_factory.mktemp("batching") / "triton.log") as server:
        yield server


@pytest.fixture
def models(batching: Triton) -> Iterator[InferenceServerClient]:
    """A client of it."""
    client = InferenceServerClient(batching.url)
    yield client
    client.close()
