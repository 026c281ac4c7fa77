"""Metrics of the test process itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def unshared_metrics() -> Iterator[None]:
    """Keep the values of this process in it, so that those of each registry begin at 0.

    In the folder that all processes share they would be added to those of other registries, and
    of an earlier process of the same id.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metrics.share_values", lambda directory: None)
        yield
