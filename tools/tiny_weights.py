"""Tiny random weights of the real classes, made on this machine: ``tiny_weights.py FOLDER``.

Runs in the environment that serves the models (torch and transformers), not in the project's.
Each model's folder is what a download from the model hub would be: configuration, weights,
processor. The widths that reach the contracts (1024, 640, 128) are the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from string import printable
from typing import Any

import torch
import transformers as hf

# A line break ends most tokenizers' words; the letters carry the test.
CHARACTERS = [each for each in printable if each not in "\t\n\r\x0b\x0c"]


def vocabulary(specials: Sequence[str], words: Sequence[str] = CHARACTERS) -> dict[str, int]:
    """Special tokens first, then the words, numbered."""
    return {word: number for number, word in enumerate(dict.fromkeys([*specials, *words]))}


def byte_characters() -> list[str]:
    """What byte-level tokenizers write for the characters: a space is ``Ġ``."""
    return [each if each != " " else "Ġ" for each in CHARACTERS]


def word_pieces(specials: Sequence[str]) -> dict[str, int]:
    """A vocabulary of single letters for BERT, within and at the head of a word."""
    letters = [each for each in CHARACTERS if not each.isupper() and each != " "]
    return vocabulary(specials, [*letters, *(f"##{letter}" for letter in letters)])


def save(folder: Path, model: Any, processor: Any) -> None:
    """Write what a download would be."""
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)


def clip(folder: Path) -> None:
    """CLIP, 1024-d, at 30x30 pixels."""
    words = [*byte_characters(), *(f"{each}</w>" for each in byte_characters())]
    vocab = vocabulary(["<|startoftext|>", "<|endoftext|>"], words)
    tokenizer = hf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = hf.CLIPConfig(
        text_config={**size, **ids, "vocab_size": len(vocab)},
        vision_config={**size, "image_size": 30, "patch_size": 10},
        projection_dim=1024,
    )
    pixels = {"height": 30, "width": 30}
    # DFN5B squashes: no crop.
    images = hf.CLIPImageProcessor(size=pixels, do_center_crop=False)
    save(folder, hf.CLIPModel(config), hf.CLIPProcessor(images, tokenizer))


def align(folder: Path) -> None:
    """ALIGN, 640-d, at 32x32 pixels."""
    vocab = word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    config = hf.AlignConfig(
        text_config={
            "vocab_size": len(vocab),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        },
        vision_config={
            "image_size": 32,
            "width_coefficient": 0.25,
            "depth_coefficient": 0.3,
            "out_channels": [16, 24, 40, 80, 112, 192, 2560],
            "hidden_dim": 640,
        },
        projection_dim=640,
    )
    images = hf.EfficientNetImageProcessor(
        size={"height": 36, "width": 36}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    )
    tokenizer = hf.BertTokenizer(vocab=vocab, model_max_length=64)
    model = hf.AlignModel(config)
    for layer in model.vision_model.modules():
        if isinstance(layer, torch.nn.Conv2d):  # else the picture fades out in so many layers
            torch.nn.init.kaiming_normal_(layer.weight)
    save(folder, model, hf.AlignProcessor(images, tokenizer))


class ColBERT(hf.BertPreTrainedModel):
    """The layout of a ColBERT checkpoint: BERT and a linear layer to 128."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = hf.BertModel(config, add_pooling_layer=False)
        self.linear = torch.nn.Linear(config.hidden_size, 128, bias=False)
        self.post_init()


def colbert(folder: Path) -> None:
    """ColBERT, 128-d for every token."""
    vocab = word_pieces(["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    config = hf.BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    save(folder, ColBERT(config), hf.BertTokenizer(vocab=vocab, model_max_length=512))


GEMMA_SPECIALS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma3(folder: Path, head_dim: int = 8, longest_break: int = 1) -> None:
    """Gemma 3, an image of 28x28 pixels as 4 tokens.

    Args:
        longest_break: As many line breaks as one token holds; of the published weights, dozens.
    """
    words = ["▁" if each == " " else each for each in CHARACTERS]
    breaks = ["\n" * length for length in range(1, longest_break + 1)]
    vocab = vocabulary(GEMMA_SPECIALS, [*words, *breaks])
    tokenizer = hf.GemmaTokenizer(
        vocab=vocab,
        merges=[],
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    tokenizer.add_tokens(list(GEMMA_SPECIALS[4:6]), special_tokens=True)
    config = hf.Gemma3Config(
        text_config={
            "vocab_size": len(vocab),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": head_dim,
            "query_pre_attn_scalar": head_dim,
            # A prompt is longer than the window, as with the real ones it may be.
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 7,
        },
        mm_tokens_per_image=4,
        boi_token_index=vocab["<start_of_image>"],
        eoi_token_index=vocab["<end_of_image>"],
        image_token_index=vocab["<image_soft_token>"],
    )
    images = hf.Gemma3ImageProcessor(size={"height": 28, "width": 28}, image_seq_length=4)
    processor = hf.Gemma3Processor(
        images, tokenizer, chat_template=GEMMA_TEMPLATE, image_seq_length=4
    )
    end = vocab["<end_of_turn>"]
    silent = [*range(end), *range(end + 1, len(GEMMA_SPECIALS)), vocab["▁"]]
    silent += [vocab[each] for each in breaks]
    model = _wordy(hf.Gemma3ForConditionalGeneration(config), silent)
    model.generation_config.eos_token_id = [vocab["<eos>"], end]
    # Else the last token outweighs what the layers add, and an answer repeats it for ever.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.15)
    for layer in model.model.language_model.layers:
        torch.nn.init.constant_(layer.post_attention_layernorm.weight, 3.0)
        torch.nn.init.constant_(layer.post_feedforward_layernorm.weight, 3.0)
    save(folder, model, processor)


QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL with two layers, a token for every 28x28 pixels as the real one."""
    specials = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ]
    vocab = vocabulary(specials, [*byte_characters(), "Ċ"])
    tokenizer = hf.Qwen2Tokenizer(vocab=vocab, merges=[], eos_token="<|im_end|>")  # noqa: S106
    tokenizer.add_tokens(specials, special_tokens=True)
    config = hf.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(vocab),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=vocab["<|image_pad|>"],
        video_token_id=vocab["<|video_pad|>"],
        vision_start_token_id=vocab["<|vision_start|>"],
        vision_end_token_id=vocab["<|vision_end|>"],
    )
    processor = hf.Qwen2_5_VLProcessor(
        hf.Qwen2VLImageProcessor(min_pixels=4 * 28 * 28, max_pixels=16 * 28 * 28),
        tokenizer,
        hf.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
    silent = [*range(len(specials)), vocab["Ġ"], vocab["Ċ"]]
    save(folder, _wordy(hf.Qwen2_5_VLForConditionalGeneration(config), silent), processor)


def florence2base(folder: Path) -> None:
    """Florence-2 at 64x64 pixels, with the thousand tokens of places."""
    places = [f"<loc_{number}>" for number in range(1000)]
    vocab = vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], byte_characters())
    tokenizer = hf.BartTokenizer(
        vocab=vocab, merges=[], extra_special_tokens={"image_token": "<image>"}
    )
    tokenizer.add_tokens(
        ["<od>", "</od>", "<poly>", "</poly>", "<sep>", *places], special_tokens=True
    )
    config = hf.Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
        },
        vision_config={
            "embed_dim": (8, 16, 32, 64),
            "num_heads": (1, 2, 4, 8),
            "num_groups": (1, 2, 4, 8),
            "depths": (1, 1, 1, 1),
            "window_size": 2,
            "projection_dim": 32,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = hf.CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = (64 // 32) ** 2 + 1
    processor = hf.Florence2Processor(images, tokenizer, post_processor_config=FLORENCE_POST)
    save(folder, _wordy(hf.Florence2ForConditionalGeneration(config), range(5)), processor)


FLORENCE_POST = {
    "NUM_BBOX_HEIGHT_BINS": 1000,
    "NUM_BBOX_WIDTH_BINS": 1000,
    "PARSE_TASKS": [],
    "phrase_grounding": {"FILTER_BY_BLACK_LIST": True, "banned_grounding_tokens": ["it"]},
    "pure_text": {},
    "description_with_bboxes": {"PARSE_TASKS": []},
}


def _wordy(model: Any, silent: Sequence[int]) -> Any:
    """``model``, its words a matter of what it is given, never ``silent`` and never none.

    As they are initialised, so few layers hardly tell one input from another.
    """
    for name, weights in model.named_parameters():
        if weights.ndim > 1:
            # Florence's decoder sees the picture through its cross attention alone.
            torch.nn.init.normal_(weights, std=1.5 if "encoder_attn" in name else 0.3)
    end = model.generation_config.forced_eos_token_id
    model.generation_config.suppress_tokens = [each for each in silent if each != end]
    model.generation_config.min_new_tokens = 4
    return model


MODELS: dict[str, Callable[[Path], None]] = {
    "clip": clip,
    "align": align,
    "colbert": colbert,
    "gemma3": gemma3,
    "qwen2_5_vl": qwen2_5_vl,
    "florence2base": florence2base,
}


def make_all(folder: Path) -> None:
    """Every model's weights, the same each time."""
    for name, make in MODELS.items():
        torch.manual_seed(5)
        make(folder / name)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
