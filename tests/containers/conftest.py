"""Fixtures of the tests that run containers: images built, the system up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import images
from tests.containers.compose import Compose
from tests.containers.daemon import docker_host
from tests.containers.engine import Engine, missing, only_engine

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run these only where they are asked for: they take minutes and root's rights."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(1800))
            if "containers" not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason="run by `make test-containers`"))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """buildah and podman; without them the run stops."""
    if lack := missing():
        pytest.exit(f"containers cannot be run here: {lack}", returncode=1)
    with only_engine() as engine:
        images.build_ours(engine)
        yield engine


@pytest.fixture(scope="module")
def compose(engine: Engine) -> Iterator[Compose]:
    """The system, up: a replay's images are on their way through it."""
    images.build_all(engine)
    with docker_host(engine) as host:
        compose = Compose(engine, host)
        try:
            compose("up", "-d")
            yield compose
        finally:
            compose("--profile", "scale", "down", "--volumes", "--timeout", "5", check=False)
