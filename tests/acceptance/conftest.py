"""Parts that the acceptance tests share: each is started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.local_redis import running_redis
from demo.triton import Triton
from tests.acceptance.system import System, running_system


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
