"""How close answers and logits of slots are to ``generate`` and to a forward without a cache."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.stand_in_for_triton import Server, gemma_request, pictures
from tools import tiny_weights

Figures = dict[str, Any]


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
