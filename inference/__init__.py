"""Captions and embeddings from the models in Triton."""

from inference.model_config import model_config
from inference.models.colbert import get_colbert_embedding
from inference.models.dual_encoder import get_align_embeddings, get_clip_embeddings
from inference.models.florence import florence2_gen_caption, florence2_run_model
from inference.models.vision_language import gemma3_run_model, qwen2_5_run_model
from inference.registry import (
    CAPTIONERS,
    EMBEDDERS,
    VECTOR_RANKS,
    captioner,
    embedder,
    required_models,
)
from inference.vectors import fuse_embeddings

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
    "model_config",
    "qwen2_5_run_model",
    "required_models",
]
