"""Metrics of the test process and of those that it starts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def unshared_metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the values of this process in it, so that those of each registry begin at 0.

    In a folder that processes share they would be added to those of other registries, and of an
    earlier process of the same id. Processes that are started have a folder of this session.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("metrics")
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
        patch.setattr("metrics.share_values", lambda directory: None)
        yield
