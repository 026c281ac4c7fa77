"""Captions and embeddings from the models in Triton."""

from inference.embeddings import (
    fuse_embeddings,
    get_align_embeddings,
    get_clip_embeddings,
    get_colbert_embedding,
)
from inference.florence import florence2_gen_caption, florence2_run_model
from inference.model_config import MAX_IMAGE_PIXELS
from inference.registry import CAPTIONERS, EMBEDDERS, required_models
from inference.vision_language import gemma3_run_model, qwen2_5_run_model

__all__ = [
    "CAPTIONERS",
    "EMBEDDERS",
    "MAX_IMAGE_PIXELS",
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
