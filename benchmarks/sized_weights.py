"""Random weights of a size, in the memory of a device: the real sizes, and small ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers as hf

from tools import tiny_weights

GEMMA: dict[str, Any] = {
    "text": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 1024,
        "vocab_size": 262208,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "vision": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "image_tokens": 256,
}
CLIP: dict[str, Any] = {
    "text": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
        "projection_dim": 1024,
    },
    "vision": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 378,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "projection_dim": 1024,
    },
}
TINY_GEMMA: dict[str, Any] = {
    "text": {
        **GEMMA["text"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "vocab_size": 512,
    },
    "vision": {
        **GEMMA["vision"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 56,
    },
    "image_tokens": 4,
}
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TINY_CLIP: dict[str, Any] = {
    "text": {**CLIP["text"], **SMALL},
    "vision": {**CLIP["vision"], **SMALL},
}


def _filled(model: Any, std: float = 0.02) -> Any:
    torch.manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, std)
    return model.eval()


def _made(kind: Any, config: Any, device: str, dtype: torch.dtype) -> Any:
    with torch.device(device):
        model = kind._from_config(config, dtype=dtype)
    model.tie_weights()
    return _filled(model.to(device))


def gemma3(sizes: Any, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A Gemma 3 that never ends an answer by itself, and its processor."""
    specials = [
        *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    ]
    words = ["▁" if each == " " else each for each in tiny_weights.CHARACTERS]
    vocab = tiny_weights.vocabulary(specials, [*words, "\n"])
    for number in range(len(vocab), sizes["text"]["vocab_size"] - 64):
        vocab[f"▁w{number}"] = number
    images = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = hf.GemmaTokenizer(vocab=vocab, merges=[], extra_special_tokens=images)
    tokenizer.add_tokens(specials[4:6], special_tokens=True)
    config = hf.Gemma3Config(
        text_config=sizes["text"],
        vision_config=sizes["vision"],
        mm_tokens_per_image=sizes["image_tokens"],
        boi_token_index=vocab["<start_of_image>"],
        eoi_token_index=vocab["<end_of_image>"],
        image_token_index=vocab["<image_soft_token>"],
    )
    side = sizes["vision"]["image_size"]
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(
            size={"height": side, "width": side}, image_seq_length=sizes["image_tokens"]
        ),
        tokenizer,
        chat_template=tiny_weights.GEMMA_TEMPLATE,
        image_seq_length=sizes["image_tokens"],
    )
    model = _made(hf.Gemma3ForConditionalGeneration, config, device, dtype)
    with torch.no_grad():
        # Never the best of so many: no answer ends before its limit, and none is blank.
        table = model.get_input_embeddings().weight
        table[[*range(len(specials)), vocab["▁"], vocab["\n"]]] = 0
        table[len(vocab) :] = 0
        for layer in model.model.language_model.layers:
            layer.post_attention_layernorm.weight.fill_(1.0)
            layer.post_feedforward_layernorm.weight.fill_(1.0)
    model.generation_config = hf.GenerationConfig(bos_token_id=2, eos_token_id=[1, 5])
    return model, processor


def clip(sizes: Any, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A CLIP and its processor."""
    words = [*tiny_weights.byte_characters()]
    words = [*words, *(f"{each}</w>" for each in words)]
    vocab = tiny_weights.vocabulary(["<|startoftext|>", "<|endoftext|>"], words)
    tokenizer = hf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = hf.CLIPConfig(
        text_config={**sizes["text"], **ids}, vision_config=sizes["vision"], projection_dim=1024
    )
    side = sizes["vision"]["image_size"]
    images = hf.CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False)
    return _made(hf.CLIPModel, config, device, dtype), hf.CLIPProcessor(images, tokenizer)


@contextmanager
def loaded(module: Any, model: Any, processor: Any) -> Iterator[None]:
    """Let ``module`` of the served models load these."""
    kept = module.load_model, module.load_processor
    module.load_model = lambda *_: model
    module.load_processor = lambda *_: processor
    try:
        yield
    finally:
        module.load_model, module.load_processor = kept
