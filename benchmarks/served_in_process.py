"""The served models in one process, without Triton: ``served_in_process.py stages|real|tiny``.

Runs with the Python of the served models, or any that has torch, torchvision, transformers, NumPy
and Pillow, and needs nothing else: ``python3 benchmarks/served_in_process.py real --out FILE``.

``real`` has random bfloat16 weights of the sizes of gemma-3-4b-it and of DFN5B's CLIP on a GPU,
callers who ask again as soon as they are answered, and answers of exactly 160 tokens. ``tiny``
is the same on a CPU with small sizes, to try the program itself. ``stages`` is what each stage of
a request costs on this machine.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

ROOT = Path(__file__).resolve().parents[1]
# The latter last, as in the models: torch imports a compiler that is named as inference/triton.py.
sys.path[:0] = [str(ROOT)]
sys.path.append(str(ROOT / "inference"))

from benchmarks.sized_weights import (  # noqa: E402
    CLIP,
    GEMMA,
    TINY_CLIP,
    TINY_GEMMA,
    clip,
    gemma3,
    loaded,
)
from benchmarks.slots_exactness import equality, logits_error  # noqa: E402
from benchmarks.stand_in_for_triton import (  # noqa: E402
    STARTED,
    Log,
    Request,
    Server,
    clip_request,
    gemma_request,
    stand_in_for_triton,
)

ROUNDS = 4
"""Requests of each caller; more where there are few."""
_LEFT = 400 * 2**20
"""Bytes that others leave: less than reading a group of prompts takes."""
_TOGETHER = 0.05
"""Seconds within which answers of one group arrive."""
Figures = dict[str, Any]


def callers(
    server: Server, make: Callable[[int], Request], count: int, rounds: int, seconds: float
) -> Figures:
    """Figures of ``count`` callers, ``rounds`` requests each or what ``seconds`` allow.

    ``steady_per_s`` leaves out the time until the first answers, when all callers begin at once.
    """
    took: list[float] = []
    ends: list[float] = []
    failed: list[str] = []
    began = time.monotonic()

    def ask(caller: int) -> None:
        for number in range(rounds):
            if time.monotonic() - began > seconds:
                return
            try:
                took.append(server.ask(make(caller * rounds + number)))
                ends.append(time.monotonic())
            except RuntimeError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = time.monotonic() - began
    found: Figures = {"images_per_s": round(len(took) / whole, 3), "images": len(took)}
    if took:
        found["p50_s"] = round(statistics.median(took), 3)
        first = min(ends) + _TOGETHER
        if later := [end for end in ends if end > first]:
            found["steady_per_s"] = round(len(later) / (max(later) - min(ends)), 3)
    if failed:
        found["failed"], found["error"] = len(failed), failed[0][:300]
    Log.log_info(f"{count} callers: {found}")
    return found


def measured(
    server: Server, make: Callable[[int], Request], counts: tuple[int, ...], seconds: float
) -> Figures:
    """Figures by number of callers; the first request warms up."""
    first = server.ask(make(0))
    found: Figures = {"first_s": round(first, 2)}
    for count in counts:
        rounds = (
            max(ROUNDS, min(60, 2400 // count)) if server.backend._model.decoder is None else ROUNDS
        )
        found[str(count)] = callers(server, make, count, rounds, seconds)
    found["peak_gib"] = peak()
    return found


def peak() -> float | None:
    """GiB that were allocated at most since the last call."""
    if not torch.cuda.is_available():
        return None
    most: float = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(most, 2)


def both(gemma: Server, other: Server, counts: tuple[int, int], seconds: float) -> Figures:
    """Figures of two models that are asked at once."""
    found: Figures = {}

    def ask(name: str, server: Server, make: Any, count: int, rounds: int) -> None:
        found[name] = callers(server, make, count, rounds, seconds)

    threads = [
        threading.Thread(target=ask, args=("gemma3", gemma, gemma_request(), counts[0], 3)),
        threading.Thread(target=ask, args=("clip", other, clip_request(), counts[1], 10_000)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found["peak_gib"] = peak()
    return found


class Report:
    """Figures, written after each section, so that a run cut short keeps what it has."""

    def __init__(self, out: Path | None, deadline: float) -> None:
        self.out, self.deadline = out, deadline
        self.figures: Figures = {}

    def section(self, name: str, work: Callable[[], Any], needs: float = 20.0) -> None:
        """Run ``work`` if there is time for it; what it raises is its figure."""
        if time.monotonic() - STARTED + needs > self.deadline:
            self.figures[name] = "skipped: no time left"
        else:
            Log.log_info(f"--- {name}")
            try:
                self.figures[name] = work()
            except Exception as error:
                self.figures[name] = f"{type(error).__name__}: {error}"[:500]
        Log.log_info(f"{name}: {json.dumps(self.figures[name])}")
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(self.figures, indent=2) + "\n")


@dataclass(frozen=True)
class Size:
    """What is measured: weights, slots and callers."""

    gemma: Any
    clip: Any
    dtype: torch.dtype
    new_tokens: int
    seconds: float
    slots: tuple[int, int, int]
    callers: tuple[int, ...]
    most: tuple[int, ...]
    of_clip: tuple[int, ...]


REAL = Size(
    gemma=GEMMA,
    clip=CLIP,
    dtype=torch.bfloat16,
    new_tokens=160,
    seconds=40.0,
    slots=(64, 128, 8),
    callers=(1, 8, 16, 64),
    most=(1, 8, 64, 128),
    of_clip=(1, 16, 64),
)
TINY = Size(
    gemma=TINY_GEMMA,
    clip=TINY_CLIP,
    dtype=torch.float32,
    new_tokens=8,
    seconds=5.0,
    slots=(4, 8, 2),
    callers=(1, 4),
    most=(8,),
    of_clip=(1, 4),
)


def measure(size: Size, device: str, report: Report) -> None:
    """Everything, in the order of its importance."""
    from serving import captions, embeddings

    report.figures["setting"] = {
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": hf.__version__,
        "cpus": os.cpu_count(),
        "new_tokens": size.new_tokens,
        "dtype": str(size.dtype),
    }
    report.section("float32_equality", lambda: equality(device))
    of_gemma = gemma3(size.gemma, device, size.dtype)
    few, many, fewest = size.slots
    with loaded(captions, *of_gemma):
        report.section("logits_error", lambda: exactness(size, of_gemma[0]))
        report.section(f"gemma3_{few}_slots", lambda: in_slots(size, few, size.callers), 80)
        report.section(
            f"gemma3_{many}_slots_compiled",
            lambda: in_slots(size, many, size.most, compile_pieces="on"),
            150,
        )
        of_clip = clip(size.clip, device, size.dtype)
        with loaded(embeddings, *of_clip):
            report.section("clip", lambda: embed(size), 40)
            report.section("gemma3_and_clip", lambda: together(size), 50)
        del of_clip
        gc.collect()
        report.section(f"gemma3_{fewest}_slots", lambda: in_slots(size, fewest, (8,)), 40)
        if device == "cuda":
            report.section("out_of_memory", lambda: out_of_memory(size), 40)
        report.section("gemma3_by_generate", lambda: by_generate(size), 60)


def in_slots(size: Size, slots: int, counts: tuple[int, ...], **settings: str) -> Figures:
    """Figures of Gemma 3 in ``slots``."""
    began = time.monotonic()
    given = {"compile_pieces": "off", **settings}
    with Server("gemma3", slots=slots, max_new_tokens=size.new_tokens, **given) as server:
        found: Figures = {"ready_s": round(time.monotonic() - began, 1), "ready_gib": peak()}
        return found | measured(server, gemma_request(), counts, size.seconds)


def out_of_memory(size: Size) -> Figures:
    """Figures of one request of each slot's caller, when others have taken the GPU's memory."""
    few, made = size.slots[0], gemma_request()
    with Server("gemma3", slots=few, max_new_tokens=size.new_tokens) as server:
        server.ask(made(0))
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        others = torch.empty(free - _LEFT, dtype=torch.uint8, device="cuda")
        found = callers(server, made, few, 1, size.seconds)
        del others
        return {"slots": few, "slots_after": server.backend._model.decoder.slots, **found}


def by_generate(size: Size) -> Figures:
    """Figures of Gemma 3 in batches, with ``generate``, a request for each caller."""
    with Server("gemma3", slots=1, batch_size=8, max_new_tokens=size.new_tokens) as server:
        return measured(server, gemma_request(), (8,), 1.0)


def exactness(size: Size, model: Any) -> Figures:
    """The error of logits."""
    with Server("gemma3", slots=4, max_new_tokens=size.new_tokens) as server:
        return logits_error(server, model, questions=8, steps=min(16, size.new_tokens))


def embed(size: Size) -> Figures:
    """Figures of CLIP."""
    with Server("clip") as server:
        return measured(server, clip_request(), size.of_clip, 10.0)


def together(size: Size) -> Figures:
    """Figures of Gemma 3 and CLIP, asked at once."""
    slots, new = size.slots[0], size.new_tokens
    with Server("gemma3", slots=slots, max_new_tokens=new) as first, Server("clip") as second:
        seconds = min(15.0, size.seconds)
        return both(first, second, (size.callers[-1], size.of_clip[-1]), seconds)


# What a request costs, stage by stage.


def stages() -> Figures:
    """Milliseconds of each stage, on this machine's device."""
    from serving import captions, embeddings
    from serving.backend import read_picture
    from serving.settings import Settings

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)  # as the models run beside others
    model, processor = gemma3(
        {**TINY_GEMMA, "vision": {**TINY_GEMMA["vision"], "image_size": 896}}, device, torch.float32
    )
    with loaded(captions, model, processor):
        caption = captions.load_gemma3(Settings(weights=""))
    other, tools = clip(TINY_CLIP, device, torch.float32)
    with loaded(embeddings, other, tools):
        embedding = embeddings.load_clip(Settings(weights=""))
    whole, half = gemma_request()(0), clip_request()(0)
    question, pair = caption.prepare(whole), embedding.prepare(half)
    return {
        "device": device,
        "execute(): copy of a picture of bytes": _ms(lambda: read_picture(whole)),
        "execute(): check, rounding and copy of a picture of floats": _ms(
            lambda: read_picture(half)
        ),
        "execute(): all of gemma3": _ms(lambda: caption.prepare(whole)),
        "execute(): all of clip": _ms(lambda: embedding.prepare(half)),
        "batch: prompt and picture of gemma3": _ms(lambda: caption.inputs([question])),
        "batch: each of 16 of gemma3": _ms(lambda: caption.inputs([question] * 16)) / 16,
        "batch: each of 16 texts and pictures of clip": _ms(
            lambda: (
                embedding._processor.tokenizer(
                    [pair.text] * 16, padding="max_length", max_length=77
                ),
                embedding._processor.image_processor(
                    **embeddings.picture_inputs([pair.image] * 16, other.device),
                    return_tensors="pt",
                ),
            )
        )
        / 16,
    }


def _ms(work: Callable[[], object]) -> float:
    """The median of some runs."""
    took = []
    for _ in range(9):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took[2:])


def main() -> None:
    """Measure, and write JSON to ``--out`` or standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["stages", "real", "tiny"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=540.0, help="end within this time")
    arguments = parser.parse_args()
    if arguments.what == "real" and not torch.cuda.is_available():
        sys.exit("no GPU: weights of real size need one")
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    stand_in_for_triton()
    # A line for each answer would hide the others.
    logging.getLogger("serving.captions").addFilter(lambda line: "trimmed" not in line.msg)
    # A run that hangs says where, and ends.
    faulthandler.dump_traceback_later(arguments.seconds + 30, exit=True)
    if arguments.what == "stages":
        figures: Mapping[str, Any] = stages()
    else:
        report = Report(arguments.out, arguments.seconds)
        size = REAL if arguments.what == "real" else TINY
        measure(size, "cuda" if torch.cuda.is_available() else "cpu", report)
        figures = report.figures
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
