"""Parts that the acceptance tests share: each is started once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo.sage_replay.server import Replay
from demo.servers.redis import running_redis
from demo.servers.triton import Triton
from demo.servers.weaviate import started
from tests.acceptance.growth_workers import Workers, WorkersOn, running_workers
from tests.acceptance.system import System, running_system
from tests.chaos.dataset import Published, catalogue, images
from tests.support.triton_fixture import renamed_previews


@pytest.fixture(scope="session")
def acceptance_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that no other test empties; database 0 is the system's."""
    with running_redis(tmp_path_factory.mktemp("acceptance-redis")) as url:
        yield url


@pytest.fixture(scope="session")
def system(
    acceptance_redis: str, triton: Triton, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """The whole system, once it has done its work on a day of SAGE."""
    folder = tmp_path_factory.mktemp("system")
    with running_system(acceptance_redis, triton, folder) as running:
        yield running


@pytest.fixture
def replay() -> Iterator[Replay]:
    """A replay of SAGE that holds nothing yet."""
    with Replay() as running:
        yield running


@pytest.fixture
def pictures(replay: Replay) -> list[Published]:
    """Images that the replay holds, all good."""
    published = [image for image in images(replay.host, "growth", 90, 7) if not image.is_excluded]
    replay.catalogue = catalogue(published, 0)
    return published


@pytest.fixture
def store(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings of an empty store."""
    folder = tmp_path / "weaviate"
    folder.mkdir()
    with started(folder) as weaviate:
        if weaviate is None:
            yield {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(tmp_path / "store")}
        else:
            yield {name.upper(): str(value) for name, value in weaviate.settings.items()}


@pytest.fixture(scope="session")
def real_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A server whose models do not call themselves previews: as in production, workers may use a
    store that an earlier version filled."""
    folder = tmp_path_factory.mktemp("real-triton")
    with Triton(folder / "triton.log", repository=renamed_previews(folder)) as server:
        yield server


@pytest.fixture
def workers_on(
    real_triton: Triton, replay: Replay, store: dict[str, str], tmp_path: Path
) -> Iterator[WorkersOn]:
    """Gives workers on the Redis of a URL: none yet; those that are started end with the test."""
    with ExitStack() as block:

        def begin(redis_url: str) -> Workers:
            variables = {
                **store,
                **replay.environment(),
                "CELERY_BROKER_URL": redis_url,
                "CELERY_RESULT_BACKEND": redis_url,
                "TRITON_HOST": real_triton.host,
                "TRITON_PORT": str(real_triton.ports.grpc),
                "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
            }
            return block.enter_context(running_workers(tmp_path, variables))

        yield begin
