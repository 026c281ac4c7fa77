"""Tiny random weights of Gemma 3 for vLLM: ``python -m tools.vllm_weights FOLDER``.

Runs in the environment that serves them. vLLM reads the layout of the published weights, looks up
runs of line breaks, has attention for heads of 32 and wider on a CPU, and suppresses no tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path

import safetensors.torch
import torch

from tools import tiny_weights

HEAD_DIM = 32
LONGEST_BREAK = 4
EMBEDDINGS = "language_model.model.embed_tokens.weight"


def make(folder: Path) -> None:
    """Write what a download of ``google/gemma-3-4b-it`` would be."""
    torch.manual_seed(5)
    tiny_weights.gemma3(folder, HEAD_DIM, LONGEST_BREAK)
    file = folder / "model.safetensors"
    weights = {_published(name): each for name, each in safetensors.torch.load_file(file).items()}
    # A special token is never the most likely one.
    weights[EMBEDDINGS][: len(tiny_weights.GEMMA_SPECIALS)] = 0.0
    safetensors.torch.save_file(weights, file, {"format": "pt"})


def _published(name: str) -> str:
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
