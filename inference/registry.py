"""The models that can be configured; the modules of :mod:`inference.models` register them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol, TypeVar

from tritonclient.grpc import InferenceServerClient

from inference.tensors import RGBImage, Vector
from weavloader.errors import ConfigError, Reason
from weavloader.provenance import CAPTION
from weavloader.settings import OPENAI


class CaptionFunction(Protocol):
    """Describes an image in words."""

    def __call__(self, client: InferenceServerClient, image: RGBImage, *, timeout: float) -> str:
        """The caption, never blank; raises TransientError or PermanentError."""


class EmbedFunction(Protocol):
    """Makes the vector of an image with its caption, or of a search's text alone."""

    def __call__(
        self,
        client: InferenceServerClient,
        text: str,
        image: RGBImage | None = None,
        *,
        timeout: float,
    ) -> Vector:
        """The vector, [D] or [tokens, D]; raises TransientError or PermanentError."""


Caption = TypeVar("Caption", bound=CaptionFunction)
Embed = TypeVar("Embed", bound=EmbedFunction)
_Function = TypeVar("_Function")

_captioners: dict[str, CaptionFunction] = {}
_embedders: dict[str, EmbedFunction] = {}
_ranks: dict[str, int] = {}
_names_in_triton: dict[str, str] = {}

CAPTIONERS: Mapping[str, CaptionFunction] = _captioners
"""By the name it has in ``CAPTION_MODEL``."""
EMBEDDERS: Mapping[str, EmbedFunction] = _embedders
"""By the name it has in ``EMBEDDING_MODELS``."""
VECTOR_RANKS: Mapping[str, int] = _ranks
"""Of an embedding model's vectors, by the same name."""


def caption_model(name: str, *, served_as: str | None = None) -> Callable[[Caption], Caption]:
    """Register a caption function as the value ``name`` of ``CAPTION_MODEL``.

    Args:
        served_as: The model's name in Triton, if it differs.
    """

    def declare(function: Caption) -> Caption:
        _captioners[name] = function
        _names_in_triton[name] = served_as or name
        return function

    return declare


def embedding_model(
    name: str, *, served_as: str | None = None, rank: Literal[1, 2] = 1
) -> Callable[[Embed], Embed]:
    """Register an embedding function as the value ``name`` of ``EMBEDDING_MODELS``.

    Args:
        name: Letters, digits and ``_``, the first a letter; also the vector's in the store.
        served_as: The model's name in Triton, if it differs.
        rank: Of its vectors: 1 for [D], 2 for [tokens, D].
    """
    if not (name.isascii() and name.isidentifier()) or name == CAPTION:
        raise ValueError(f"{name!r} cannot be a vector's name")

    def declare(function: Embed) -> Embed:
        _embedders[name] = function
        _ranks[name] = rank
        _names_in_triton[name] = served_as or name
        return function

    return declare


def captioner(name: str) -> CaptionFunction:
    """The caption function of ``CAPTION_MODEL=name``, which asks Triton.

    Raises:
        ConfigError: There is no such model.
    """
    return _find(name, CAPTIONERS, "CAPTION_MODEL", OPENAI)


def embedder(name: str) -> EmbedFunction:
    """The embedding function of ``name`` in ``EMBEDDING_MODELS``.

    Raises:
        ConfigError: There is no such model.
    """
    return _find(name, EMBEDDERS, "EMBEDDING_MODELS")


def required_models(caption_model: str, embedding_models: Iterable[str]) -> tuple[str, ...]:
    """Names in Triton of the models a configuration needs.

    The captioner of ``CAPTION_MODEL=openai`` is none of them.

    Raises:
        ConfigError: One of them does not exist.
    """
    embedders = list(embedding_models)
    captioners = [] if caption_model == OPENAI else [caption_model]
    for name in captioners:
        captioner(name)
    for name in embedders:
        embedder(name)
    return tuple(dict.fromkeys(_names_in_triton[name] for name in (*captioners, *embedders)))


def _find(name: str, known: Mapping[str, _Function], setting: str, *more: str) -> _Function:
    if name not in known:
        message = f"{setting}: expected one of {', '.join(sorted({*known, *more}))}, not {name!r}"
        raise ConfigError(message, reason=Reason.UNKNOWN_MODEL)
    return known[name]
