"""Contracts of the models in Triton, and whether the served models are ready and keep them.

The contracts are the same at every site, so that either side can be replaced. A test compares
them with the configurations of both model repositories; docs/models.md shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from inference.model_config import model_config
from inference.triton import map_error
from weavloader.errors import ConfigError, Reason, TransientError

Tensor = tuple[str, tuple[int, ...]]
"""Triton's datatype, and the shape, in which -1 is any length."""

_TEXT: Tensor = ("BYTES", (1,))
_NUMBER: Tensor = ("INT32", (1,))
_PIXELS = (-1, -1, 3)


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs and outputs by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def contracts() -> dict[str, Contract]:
    """Contracts by name in Triton, for the configured lengths of vectors."""
    config = model_config()
    return {
        "gemma3": _text_output("UINT8"),
        "qwen2_5_vl": _text_output("UINT8"),
        "florence2base": _text_output(
            "FP32", text_input=_TEXT, image_width=_NUMBER, image_height=_NUMBER
        ),
        "clip": _dual_encoder(config.clip_dimension),
        "align": _dual_encoder(config.align_dimension),
        "colbert": Contract(
            {"text": _TEXT}, {"embedding": ("FP32", (1, -1)), "token_lengths": _NUMBER}
        ),
    }


def require_models(client: InferenceServerClient, names: Iterable[str], *, timeout: float) -> None:
    """Check that Triton has each model ready; nothing is inferred.

    Args:
        names: Their names in Triton.
        timeout: Seconds, for each.

    Raises:
        TransientError: Triton does not answer, or a model is not ready.
    """
    missing = [name for name in names if not _is_ready(client, name, timeout)]
    if missing:
        raise TransientError(f"not ready: {', '.join(missing)}", reason=Reason.MODEL_MISSING)


def require_contracts(
    client: InferenceServerClient, names: Iterable[str], *, timeout: float
) -> None:
    """Compare the served contracts with the expected ones; models that a site added are skipped.

    Args:
        names: The models' names in Triton.
        timeout: Seconds, for each.

    Raises:
        ConfigError: A model has other inputs or outputs: each image would be refused.
        TransientError: Triton does not answer, or a model is missing.
    """
    known = contracts()
    for name in (name for name in names if name in known):
        if found := list(_differences(known[name], _served(client, name, timeout))):
            message = f"{name} is served with another contract: {'; '.join(found)}"
            raise ConfigError(message, reason=Reason.MODEL_CONTRACT)


def _is_ready(client: InferenceServerClient, name: str, timeout: float) -> bool:
    try:
        return bool(client.is_model_ready(name, client_timeout=timeout))
    except InferenceServerException as error:
        raise map_error(error, name) from error


def _text_output(pixels: str, **more: Tensor) -> Contract:
    return Contract({"image": (pixels, _PIXELS), "prompt": _TEXT, **more}, {"answer": _TEXT})


def _dual_encoder(dimension: int) -> Contract:
    vector: Tensor = ("FP32", (1, dimension))
    return Contract(
        {"text": _TEXT, "image": ("FP32", _PIXELS)},
        {"text_embedding": vector, "image_embedding": vector},
    )


def _served(client: InferenceServerClient, name: str, timeout: float) -> Contract:
    try:
        metadata = client.get_model_metadata(name, client_timeout=timeout)
    except InferenceServerException as error:
        raise map_error(error, name) from error
    return Contract(_tensors(metadata.inputs), _tensors(metadata.outputs))


def _tensors(told: Iterable[Any]) -> dict[str, Tensor]:
    return {each.name: (each.datatype, tuple(each.shape)) for each in told}


def _differences(expected: Contract, served: Contract) -> Iterator[str]:
    for kind in ("inputs", "outputs"):
        wanted, found = getattr(expected, kind), getattr(served, kind)
        for name, tensor in wanted.items():
            if name not in found:
                yield f"no {name} among the {kind}"
            elif not _fits(tensor, found[name], is_open=kind == "outputs"):
                yield f"{name} is {_shown(found[name])}, not {_shown(tensor)}"
    for name in served.inputs.keys() - expected.inputs.keys():
        yield f"it also asks for {name}"


def _fits(expected: Tensor, served: Tensor, is_open: bool) -> bool:
    """Whether the tensors match; ``is_open`` accepts a fixed length where any is expected."""
    (kind, shape), (served_kind, served_shape) = expected, served
    if kind != served_kind or len(shape) != len(served_shape):
        return False
    return all(
        has in (-1, wanted) or (is_open and wanted == -1)
        for wanted, has in zip(shape, served_shape, strict=True)
    )


def _shown(tensor: Tensor) -> str:
    return f"{tensor[0]} {list(tensor[1])}"
