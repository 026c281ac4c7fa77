"""The served models in one process, without Triton: ``served_in_process.py stages|real``.

Runs with the Python of the served models, or any that has torch, torchvision, transformers, NumPy
and Pillow, and needs nothing else: ``python3 benchmarks/served_in_process.py real --out FILE``.

``real`` has random bfloat16 weights of the sizes of gemma-3-4b-it and of DFN5B's CLIP on a GPU,
callers who ask again as soon as they are answered, and answers of exactly 160 tokens. ``tiny``
is the same on a CPU with small sizes, to try the program itself. ``stages`` is what each stage of
a request costs on this machine.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import os
import queue
import statistics
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers as hf

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "inference")]

from tools import tiny_weights  # noqa: E402

ROUNDS = 4
"""Requests of each caller; more where there are few."""
PROMPT = "Describe this picture from an environmental sensor camera briefly."
"""A token a letter here: about as many as the client's prompt has for the real tokenizer."""
CAPTION = "A gravel road along a ridge under a cloudy sky, with snow between the trees. " * 3
GEMMA_PIXELS, CLIP_PIXELS = (775, 1033), (378, 504)
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

Figures = dict[str, Any]
STARTED = time.monotonic()


# Triton's Python backend, as far as the served models use it.


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        """The array."""
        return self.array


class Response:
    """Tensors or an error."""

    def __init__(self, output_tensors: Any = (), error: Exception | None = None) -> None:
        self.tensors, self.error = list(output_tensors), error


class Failure(Exception):
    """As ``TritonError``."""

    INVALID_ARG, INTERNAL, CANCELLED = range(3)

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Log:
    """Lines on standard error."""

    @staticmethod
    def log_info(message: str) -> None:
        """Print ``message``."""
        print(f"[{time.monotonic() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)

    log_warn = log_error = log_info


class Request:
    """A request that is its own sender; ``seconds`` is what its answer took."""

    def __init__(self, **arrays: Any) -> None:
        self.arrays = arrays
        self.began = time.monotonic()
        self.seconds = 0.0
        self.answered = threading.Event()
        self.response: Response | None = None

    def get_response_sender(self) -> Request:
        """Itself."""
        return self

    def is_cancelled(self) -> bool:
        """Never."""
        return False

    def parameters(self) -> str:
        """None."""
        return ""

    def send(self, response: Response, flags: int) -> None:
        """Take the answer."""
        self.response, self.seconds = response, time.monotonic() - self.began
        self.answered.set()


def stand_in_for_triton() -> None:
    """Let the served models import ``triton_python_backend_utils``."""
    module: Any = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Response, Failure
    module.Logger, module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = Log, 1
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request.arrays[name])
    sys.modules["triton_python_backend_utils"] = module


class Server:
    """A model's backend, its ``execute`` called by one thread, as Triton does."""

    def __init__(self, name: str, **settings: Any) -> None:
        for setting, value in settings.items():
            os.environ[f"{name}_{setting}".upper()] = str(value)
        path = ROOT / "inference" / "model_repository" / name / "1" / "model.py"
        spec = importlib.util.spec_from_file_location(f"served_{name}", path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.backend = module.TritonPythonModel()
        self.backend.initialize({"model_name": name})
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._execute, daemon=True)
        self._thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        """End it and free its memory."""
        self._requests.put(None)
        self._thread.join()
        self.backend.finalize()
        del self.backend
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ask(self, request: Request) -> float:
        """Seconds that the answer took.

        Raises:
            RuntimeError: It is an error.
        """
        self._requests.put(request)
        request.answered.wait()
        if request.response is None or request.response.error is not None:
            raise RuntimeError(f"{request.response and request.response.error}")
        return request.seconds

    def _execute(self) -> None:
        while (request := self._requests.get()) is not None:
            for answer in self.backend.execute([request]) or []:
                request.send(answer, 1)


# Weights of a size.


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


# What is measured.


def pictures(size: tuple[int, int], dtype: Any) -> list[Any]:
    """Sixteen photographs, none like another."""
    rng = np.random.default_rng(1)
    height, width = size
    coarse = rng.integers(0, 256, (16, height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    whole = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return [np.ascontiguousarray(each, dtype=dtype) for each in whole]


def text(words: str) -> Any:
    """STRING [1]."""
    return np.array([words.encode()], dtype=np.object_)


def callers(
    server: Server, make: Callable[[int], Request], count: int, rounds: int, seconds: float
) -> Figures:
    """Figures of ``count`` callers, ``rounds`` requests each or what ``seconds`` allow."""
    took: list[float] = []
    failed: list[str] = []
    began = time.monotonic()

    def ask(caller: int) -> None:
        for number in range(rounds):
            if time.monotonic() - began > seconds:
                return
            try:
                took.append(server.ask(make(caller * rounds + number)))
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
            max(ROUNDS, min(60, 480 // count)) if server.backend._model.decoder is None else ROUNDS
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


def gemma_request() -> Callable[[int], Request]:
    """Requests of the caption model, by number."""
    images, prompt = pictures(GEMMA_PIXELS, np.uint8), text(PROMPT)
    return lambda number: Request(image=images[number % 16], prompt=prompt)


def clip_request() -> Callable[[int], Request]:
    """Requests of the embedding model, by number."""
    images, caption = pictures(CLIP_PIXELS, np.float32), text(CAPTION)
    return lambda number: Request(image=images[number % 16], text=caption)


def logits_error(server: Server, model: Any, steps: int) -> Figures:
    """Of the logits of slots, and of ``generate``, against a forward without a cache."""
    served = server.backend._model
    decoder = served.decoder._slots
    question = served.prepare(gemma_request()(0))
    inputs = served.inputs([question], padding_side="right")
    seen: list[Any] = []
    best = decoder._rules.best

    def note(logits: Any, slot: Any, count: Any) -> Any:
        seen.append(logits[:1].float())
        return best(logits, slot, count)

    with torch.inference_mode():
        decoder._rules.best = note
        decoder.start([0], inputs, [steps])
        while len(seen) < steps:
            decoder._step(1, decoder.length)
        decoder._rules.best = best
        decoder.stop(0)
        made = model.generate(
            **inputs,
            max_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = decoder.tokens([0])[0]
        written = torch.tensor([tokens], device=model.device)
        whole = dict(inputs)
        whole["input_ids"] = torch.cat([inputs["input_ids"], written], 1)
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        whole["token_type_ids"] = torch.cat(
            [inputs["token_type_ids"], torch.zeros_like(written)], 1
        )
        plain = (
            model(**whole, use_cache=False).logits[0, inputs["input_ids"].shape[1] - 1 :].float()
        )
    generated = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    same = next(
        (n for n, pair in enumerate(zip(tokens, generated, strict=False)) if len(set(pair)) > 1),
        steps,
    )

    def error(found: list[Any], until: int) -> float:
        return round(
            max(
                float((logits[0] - plain[n]).norm() / plain[n].norm())
                for n, logits in enumerate(found[:until])
            ),
            5,
        )

    return {
        "equal_tokens": same,
        "of": steps,
        "slots": error(seen, steps),
        # As far as it wrote the same tokens.
        "generate": error([each.float() for each in made.logits], max(1, same)),
    }


def equality(device: str) -> Figures:
    """How many answers of tiny float32 weights are those of ``generate``, token for token."""
    from serving import captions
    from serving.settings import Settings

    with TemporaryDirectory() as folder:
        torch.manual_seed(5)
        tiny_weights.gemma3(Path(folder))
        settings = Settings(
            weights=folder,
            device=device,
            dtype="float32",
            max_new_tokens=48,
            slots=16,
            kv_length=512,
        )
        model = captions.load_gemma3(settings)
    rng = np.random.default_rng(2)
    images = pictures((60, 80), np.uint8)
    questions = [
        captions.Question(
            images[n % 16],
            "".join(chr(97 + x) for x in rng.integers(0, 26, 5 + 9 * n)),
            64 + 9 * n,
            48,
        )
        for n in range(16)
    ]
    expected = [bytes(model.run([each])[0]["answer"][0]) for each in questions]
    slots = list(range(16))
    model.decoder.start(slots, questions)
    active, answers = set(slots), {}
    while active:
        model.decoder.advance(sorted(active))
        for slot in model.decoder.ended(sorted(active)):
            answers[slot] = bytes(model.decoder.results([slot])[0]()["answer"][0])
            active.discard(slot)
    equal = sum(answers[n] == each for n, each in enumerate(expected))
    return {"equal": equal, "of": len(expected)}


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
        report.section("gemma3_by_generate", lambda: by_generate(size), 60)


def in_slots(size: Size, slots: int, counts: tuple[int, ...], **settings: str) -> Figures:
    """Figures of Gemma 3 in ``slots``."""
    began = time.monotonic()
    given = {"compile_pieces": "off", **settings}
    with Server("gemma3", slots=slots, max_new_tokens=size.new_tokens, **given) as server:
        found: Figures = {"ready_s": round(time.monotonic() - began, 1), "ready_gib": peak()}
        return found | measured(server, gemma_request(), counts, size.seconds)


def by_generate(size: Size) -> Figures:
    """Figures of Gemma 3 in batches, with ``generate``, a request for each caller."""
    with Server("gemma3", slots=1, batch_size=8, max_new_tokens=size.new_tokens) as server:
        return measured(server, gemma_request(), (8,), 1.0)


def exactness(size: Size, model: Any) -> Figures:
    """The error of logits."""
    with Server("gemma3", slots=4, max_new_tokens=size.new_tokens) as server:
        return logits_error(server, model, min(16, size.new_tokens))


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
