"""Whether the models that are needed can be asked at all."""

from __future__ import annotations

from collections.abc import Iterable

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from inference.triton import translated
from weavloader.errors import Reason, TransientError


def require_models(client: InferenceServerClient, names: Iterable[str], *, timeout: float) -> None:
    """Ask Triton for each model; nothing is inferred.

    Args:
        names: Their names in Triton.
        timeout: Seconds, for each.

    Raises:
        TransientError: Triton does not answer, or a model is not ready.
    """
    missing = [name for name in names if not _is_ready(client, name, timeout)]
    if missing:
        raise TransientError(f"not ready: {', '.join(missing)}", reason=Reason.MODEL_MISSING)


def _is_ready(client: InferenceServerClient, name: str, timeout: float) -> bool:
    try:
        return bool(client.is_model_ready(name, client_timeout=timeout))
    except InferenceServerException as error:
        raise translated(error, name) from error
