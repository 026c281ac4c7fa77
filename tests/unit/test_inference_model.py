"""The seed's module of model functions, and the names that the package passes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import inference
from inference import model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", model.__all__)
def test_the_package_passes_on_every_model_function(name: str) -> None:
    assert getattr(inference, name) is getattr(model, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'gemma4_run_model'"):
        inference.gemma4_run_model  # noqa: B018


def test_hyperparameters_are_read_without_the_client_of_triton() -> None:
    code = "import sys, inference.model_config; print('tritonclient' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"
