"""Every model function: captions, embeddings, and the models that can be configured.

Each kind of model has a module in :mod:`inference.models`. Importing this module declares all of
them in :mod:`inference.registry`.
"""

from inference.models.captions import (
    florence2_gen_caption,
    florence2_run_model,
    gemma3_run_model,
    qwen2_5_run_model,
)
from inference.models.embeddings import (
    get_align_embeddings,
    get_clip_embeddings,
    get_colbert_embedding,
)
from inference.registry import (
    CAPTIONERS,
    EMBEDDERS,
    VECTOR_RANKS,
    captioner,
    embedder,
    required_models,
)
from inference.tensors import fuse_embeddings

__all__ = [
    "CAPTIONERS",
    "EMBEDDERS",
    "VECTOR_RANKS",
    "captioner",
    "embedder",
    "florence2_gen_caption",
    "florence2_run_model",
    "fuse_embeddings",
    "gemma3_run_model",
    "get_align_embeddings",
    "get_clip_embeddings",
    "get_colbert_embedding",
    "qwen2_5_run_model",
    "required_models",
]
