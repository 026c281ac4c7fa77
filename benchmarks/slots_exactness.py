"""How close answers and logits of slots are to ``generate`` and to a forward without a cache."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.stand_in_for_triton import Server, gemma_request, pictures
from tools import tiny_weights

Figures = dict[str, Any]


def logits_error(server: Server, model: Any, questions: int, steps: int) -> Figures:
    """Of the logits of slots, and of ``generate``, against a forward without a cache.

    The relative error of each token's logits, as far as both wrote the same answer: to a forward
    in the model's own precision, which rounds as ``generate`` does, and to one in float32.
    """
    served = server.backend._model
    references = {"own_precision": model, "float32": copy.deepcopy(model).float()}
    errors: dict[str, dict[str, list[float]]] = {
        name: {"slots": [], "generate": []} for name in references
    }
    equal = 0
    for number in range(questions):
        question = served.prepare(gemma_request()(number))
        padded = served.inputs([question], padding_side="right")
        inputs = served.inputs([question], padding_side="left")
        width = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            seen = _of_slots(served.decoder._slots, padded, steps)
            made = model.generate(
                **inputs,
                max_new_tokens=steps,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            tokens = made.sequences[0, width:]
            plain = {
                name: _without_cache(each, inputs, tokens) for name, each in references.items()
            }
        found = {"slots": seen, "generate": [each[0].float() for each in made.logits]}
        same = next((n for n in range(steps) if seen[n].argmax() != tokens[n]), steps)
        equal += same
        for reference, by in errors.items():
            for name, each in by.items():
                pairs = zip(found[name][: same + 1], plain[reference], strict=False)
                each += [float((one - right).norm() / right.norm()) for one, right in pairs]
    figures: Figures = {"equal_tokens": equal, "of": questions * steps}
    for reference, by in errors.items():
        figures[reference] = {
            name: {"mean": round(float(np.mean(each)), 5), "max": round(max(each), 5)}
            for name, each in by.items()
        }
    return figures


def _of_slots(decoder: Any, inputs: dict[str, Any], steps: int) -> list[Any]:
    """The logits of each step of a slot."""
    seen: list[Any] = []
    best = decoder._rules.best

    def note(logits: Any, slot: Any, count: Any) -> Any:
        seen.append(logits[0].float())
        return best(logits, slot, count)

    decoder._rules.best = note
    decoder.start([0], inputs, [steps])
    while len(seen) < steps:
        with decoder._on_device(), decoder._step_pieces:
            decoder._step(1, decoder.length)
    decoder._rules.best = best
    decoder.stop(0)
    return seen


def _without_cache(model: Any, inputs: dict[str, Any], tokens: Any) -> Any:
    """The logits that come before each of ``tokens``, computed at once."""
    whole, written = dict(inputs), tokens[None]
    whole["input_ids"] = torch.cat([inputs["input_ids"], written], 1)
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    whole["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.zeros_like(written)], 1)
    whole["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return model(**whole, use_cache=False).logits[0, inputs["input_ids"].shape[1] - 1 :].float()


def equality(device: str) -> Figures:
    """How many answers of tiny float32 weights are those of ``generate``, token for token."""
    return {kind: _equality(kind, device) for kind in ("gemma3", "qwen2_5_vl")}


def _equality(kind: str, device: str) -> Figures:
    from serving import captions
    from serving.settings import Settings

    with TemporaryDirectory() as folder:
        torch.manual_seed(5)
        getattr(tiny_weights, kind)(Path(folder))
        settings = Settings(
            weights=folder,
            device=device,
            dtype="float32",
            max_new_tokens=48,
            slots=16,
            kv_length=512,
            compile_pieces="off",
        )
        model = getattr(captions, f"load_{kind}")(settings)
    rng = np.random.default_rng(2)
    images = pictures((60, 80), np.uint8)
    questions = [
        model.question(
            images[n % 16],
            "".join(chr(97 + x) for x in rng.integers(0, 26, 5 + 9 * n)),
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
