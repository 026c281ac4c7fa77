"""Calls per second of the served models: ``python -m benchmarks.models``.

The real model repository on a real Triton, asked by the real client, with tiny random weights.
So it measures the way of a call, through client, Triton, checks and processors, and what a batch
or a slot saves of it; the arithmetic of real weights, of which they save more, comes on top. With
``--size real`` it measures that: random weights of real size on a GPU, in one process without
Triton (``benchmarks/served_in_process.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient

from benchmarks.bench import BUILD
from benchmarks.report import Figures, save
from commands.cli import run
from demo.servers.triton_install import install
from inference import (
    florence2_run_model,
    gemma3_run_model,
    get_align_embeddings,
    get_clip_embeddings,
    get_colbert_embedding,
    qwen2_5_run_model,
)
from inference.model_config import ImageLimit, model_config
from inference.models.captions import CAPTION_TASK
from inference.tensors import RGBImage, reduce_image
from tools.served_models import make_weights, packages, serve
from weavloader.errors import ConfigError, Reason

CALLERS = 16
TIMEOUT = 120.0
BATCHING: Mapping[str, Mapping[str, str]] = {
    "off": {"MODELS_BATCH_SIZE": "1", "MODELS_SLOTS": "1"},
    "on": {},
}
# The default; the tests wait longer, for larger batches.
_DEFAULT_DELAY = {"MODELS_BATCH_DELAY_MS": "5"}
_CAPTION = "A gravel road along a ridge under a cloudy sky, with snow between the trees, number "

Call = Callable[[InferenceServerClient, int], object]


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=8.0,
    show_default=True,
    help="How long each model is asked, one by one and by 16 callers.",
)
@click.option(
    "--size",
    type=click.Choice(["tiny", "real"]),
    default="tiny",
    show_default=True,
    help="Of the weights; real ones need a GPU.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=BUILD / "models.json",
    help="Where the figures go, as JSON.",
)
def models(seconds: float, size: str, out: Path) -> None:
    """Measure calls a second of each model, with and without batches and slots."""
    console = Console()
    if size == "real":
        if shutil.which("nvidia-smi") is None:
            message = "--size real needs a GPU, and this machine has none (no nvidia-smi)"
            raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
        save(_in_process("real"), out)
        console.print(f"Written to {out}", highlight=False)
        return
    calls = _calls()
    found: Figures = {name: {} for name in calls}
    with TemporaryDirectory(prefix="weavloader-models-") as folder:
        make_weights(weights := Path(folder) / "weights")
        for batching, settings in BATCHING.items():
            log = Path(folder) / "triton.log"
            with console.status(f"Batching {batching}"), _served(weights, log, settings) as client:
                for name, call in calls.items():
                    found[name][batching] = _measured(client, call, seconds)
    _show(console, found)
    with console.status("Stages of a request"):
        stages = _in_process("stages")
    _show_stages(console, stages)
    when = time.strftime("%Y-%m-%d %H:%M")
    save({"at": when, "cpus": os.cpu_count(), "models": found, "stages": stages}, out)
    console.print(f"Written to {out}", highlight=False)


@contextmanager
def _served(
    weights: Path, log: Path, settings: Mapping[str, str]
) -> Iterator[InferenceServerClient]:
    with serve(weights, log, {**_DEFAULT_DELAY, **settings}) as server:
        client = InferenceServerClient(server.url)
        yield client
        client.close()


def _measured(client: InferenceServerClient, call: Call, seconds: float) -> dict[str, float]:
    """Calls a second, one by one and with :data:`CALLERS` at once; the first warms it up."""
    call(client, 0)
    return {str(callers): _per_second(client, call, callers, seconds) for callers in (1, CALLERS)}


def _per_second(client: InferenceServerClient, call: Call, callers: int, seconds: float) -> float:
    numbers, began = count(), time.monotonic()

    def ask_on(_: int) -> int:
        asked = 0
        while time.monotonic() - began < seconds:
            call(client, next(numbers))
            asked += 1
        return asked

    with ThreadPoolExecutor(callers) as pool:
        answered = sum(pool.map(ask_on, range(callers)))
    return answered / (time.monotonic() - began)


def _calls() -> dict[str, Call]:
    """By name in Triton, a call as a processor makes it, with another text for each number."""
    config = model_config()
    gemma = _photograph(ImageLimit(config.gemma3_max_pixels))
    qwen = _photograph(ImageLimit(config.qwen2_5_vl_max_pixels))
    florence = _photograph(ImageLimit.of_side(config.florence2_image_side))
    clip = _photograph(ImageLimit.of_side(config.clip_image_side))
    align = _photograph(ImageLimit.of_side(config.align_image_side))
    return {
        "gemma3": lambda client, n: gemma3_run_model(client, gemma, f"Image {n}?", timeout=TIMEOUT),
        "qwen2_5_vl": lambda client, n: qwen2_5_run_model(
            client, qwen, f"Image {n}?", timeout=TIMEOUT
        ),
        "florence2base": lambda client, n: florence2_run_model(
            client, florence, CAPTION_TASK, timeout=TIMEOUT
        ),
        "clip": lambda client, n: get_clip_embeddings(
            client, f"{_CAPTION}{n}", clip, timeout=TIMEOUT
        ),
        "align": lambda client, n: get_align_embeddings(
            client, f"{_CAPTION}{n}", align, timeout=TIMEOUT
        ),
        "colbert": lambda client, n: get_colbert_embedding(
            client, f"{_CAPTION}{n}", timeout=TIMEOUT
        ),
    }


def _in_process(what: str) -> Figures:
    """What ``served_in_process.py`` measures, in the Python of the models."""
    python = install(packages=packages()).python
    program = Path(__file__).with_name("served_in_process.py")
    done = subprocess.run([python, program, what], check=True, stdout=subprocess.PIPE)
    figures: Figures = json.loads(done.stdout)
    return figures


def _photograph(limit: ImageLimit) -> RGBImage:
    """A camera's 2048x1536 pixels, reduced once: what that costs is not measured here."""
    coarse = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return reduce_image(coarse.repeat(64, axis=0).repeat(64, axis=1), limit)


def _show(console: Console, found: Figures) -> None:
    table = Table(title="Calls a second", title_justify="left")
    table.add_column("model")
    for callers in ("one by one", f"{CALLERS} callers"):
        for batching in BATCHING:
            table.add_column(f"{callers}, batches {batching}", justify="right")
    for name, figures in found.items():
        kinds = product(("1", str(CALLERS)), BATCHING)
        table.add_row(name, *(f"{figures[batches][callers]:.1f}" for callers, batches in kinds))
    console.print(table)


def _show_stages(console: Console, stages: Figures) -> None:
    table = Table(title=f"A request by stage, on {stages['device']} (ms)", title_justify="left")
    table.add_column("stage")
    table.add_column("ms", justify="right")
    for name, cost in stages.items():
        if name != "device":
            table.add_row(name, f"{cost:.2f}")
    console.print(table)


if __name__ == "__main__":
    run(models)
