"""Images as the served models read them: checked, copied out of the request, rounded once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.serving.batching import InputError


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, with a request that is a dictionary in the place of Triton's."""
    name = "inference.serving.backend"
    triton = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(
            as_numpy=lambda: request[name]
        )
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.delitem(sys.modules, name, raising=False)
    __import__(name)
    yield sys.modules[name]
    del sys.modules[name]


def image(value: float, dtype: Any = np.float32) -> NDArray[Any]:
    return np.full((4, 6, 3), value, dtype)


def test_bytes_are_copied_as_they_are(backend: ModuleType) -> None:
    given = image(7, np.uint8)
    read = backend.read_picture({"image": given})
    given[:] = 8  # Triton's memory is used again
    assert read.dtype == np.uint8
    assert (read == 7).all()


@pytest.mark.parametrize(("value", "rounded"), [(0.5, 0), (1.5, 2), (2.4, 2), (254.6, 255)])
def test_floats_are_rounded_to_the_nearest_byte(
    value: float, rounded: int, backend: ModuleType
) -> None:
    read = backend.read_picture({"image": image(value)})
    assert read.dtype == np.uint8
    assert (read == rounded).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.001, 255.001])
def test_a_value_out_of_range_is_refused(value: float, backend: ModuleType) -> None:
    given = image(7)
    given[3, 2, 1] = value
    with pytest.raises(InputError, match="values from 0 to 255"):
        backend.read_picture({"image": given})


def test_one_black_pixel_is_no_image(backend: ModuleType) -> None:
    assert backend.read_picture({"image": np.zeros((1, 1, 3), np.float32)}) is None
    assert backend.read_picture({"image": np.zeros((2, 1, 3), np.float32)}) is not None
