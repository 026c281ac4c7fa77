"""A real Triton that serves the preview repository, shared by the tests of a session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from demo.servers.triton import PREVIEW_REPOSITORY, Triton


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


def renamed_previews(folder: Path, name: str = "tested", revision: str = "1") -> Path:
    """A repository of the preview models that call themselves ``NAME/gemma3`` and so on.

    Args:
        folder: Its own.
    """
    for code in ("preview", "serving"):
        (folder / code).symlink_to(PREVIEW_REPOSITORY.parent / code)
    repository = folder / "repository"
    shutil.copytree(PREVIEW_REPOSITORY, repository)
    for config in repository.glob("*/config.pbtxt"):
        text = config.read_text().replace('"preview/', f'"{name}/')
        config.write_text(text.replace('string_value: "1"', f'string_value: "{revision}"'))
    return repository
