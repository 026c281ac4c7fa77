"""Slots as on a GPU, their graphs replaced by the steps that they would have recorded.

Runs in the Python that serves the models: ``graphs_on_a_cpu.py SERVING WEIGHTS MODEL`` answers
questions in slots, several steps at a time, for numbers of slots and lengths that have a graph, in
a quarter of the slots that were asked for, and exits with 1 where an answer is not that of
``generate``, or where the code does what a graph cannot: read a value or copy one of Python's,
which makes Python wait for the GPU, and work on other memory than when it was captured.
"""

import sys
import threading
from contextlib import nullcontext
from functools import partial
from types import ModuleType
from typing import Any

SERVING, WEIGHTS, MODEL = sys.argv[1:]
sys.path.append(SERVING)
sys.modules["triton_python_backend_utils"] = ModuleType("triton_python_backend_utils")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from serving import captions, slots  # noqa: E402
from serving.compiled import Compiled  # noqa: E402
from serving.settings import Settings  # noqa: E402
from serving.slot_server import SlotServer  # noqa: E402
from serving.weights import picture_inputs  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

ASKED_FOR, FIT = 26, 6


class Recorded:
    """In the place of a CUDA graph."""

    def __init__(self, decoder: Any, rows: int, length: int) -> None:
        self.replay = partial(decoder._step, rows, length)


class SimulatedGPU(slots.SlotDecoder):
    """Slots that take their CPU for a GPU with memory for :data:`FIT` of them."""

    _on_gpu = property(lambda self: True, lambda self, _: None)

    def _captured(self, rows: int, length: int) -> Any:
        if self.slots > 2 * FIT + 1:
            raise torch.OutOfMemoryError
        if self.slots > FIT:
            # As of CUDA itself, found while the end of the capture fails as well.
            try:
                raise RuntimeError("CUDA error: out of memory")
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error")
        return Recorded(self, rows, length)


def question(served: Any, number: int) -> Any:
    """Another picture, prompt and length of the answer for each number."""
    rng = np.random.default_rng(number)
    letters, limit = (int(each) for each in rng.integers(1, (120, 61)))
    image = rng.integers(0, 256, (*rng.integers(20, 100, 2), 3), dtype=np.uint8)
    prompt = "".join(chr(97 + letter) for letter in rng.integers(0, 26, letters))
    return served.question(image, prompt, limit)


class Waits(TorchFunctionMode):
    """Notes what makes Python wait for the GPU, or for the rest of it after the model has begun."""

    reads = ("tolist", "item", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__index__")
    copies = ("tensor", "as_tensor")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.masks: set[torch.dtype] = set()

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        given = args[0] if name in self.copies else args[-1] if name == "__setitem__" else None
        is_copied = not (given is None or isinstance(given, torch.Tensor) or given == [])
        if name in self.reads or is_copied:
            self.seen.append(name)
        if name == "scaled_dot_product_attention":
            self.masks |= {each.dtype for each in (kwargs["attn_mask"],) if each is not None}
        return function(*args, **kwargs)

    def begins(self, *_: Any) -> None:
        """Forget what was before."""
        self.seen.clear()

    def has_begun(self, *_: Any) -> None:
        """Forget what was before, but what Gemma's own code read: the GPU would stand idle then."""
        assert MODEL != "gemma3" or not self.seen, self.seen
        self.seen.clear()


def memory(decoder: Any) -> dict[str, int]:
    """Where the tensors are that a graph reads and writes."""
    parts = {**vars(decoder), **vars(decoder._rules)}
    return {name: each.data_ptr() for name, each in parts.items() if torch.is_tensor(each)}


def load_model(*arguments: Any) -> Any:
    """The tiny weights, with what the real ones of Qwen2.5-VL ask for."""
    model = of_weights(*arguments)
    if MODEL == "qwen2_5_vl":
        model.generation_config.repetition_penalty = 1.05
    return model


def check_inputs(served: Any, questions: list[Any], side: str) -> None:
    """Assert that the model reads what the processor makes of a batch, and that it is kept."""
    padding = {"padding": True, "padding_side": side}
    if side == "right":
        padding["pad_to_multiple_of"] = 16
    processor = served._processor
    pictures = picture_inputs([each.image for each in questions], served._model.device)
    pictures["images"] = [[picture] for picture in pictures["images"]]
    right = processor.apply_chat_template(
        [
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": each.prompt}],
                }
            ]
            for each in questions
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={**padding, **pictures},
    )
    for _ in range(2):
        found = served.inputs(questions, padding_side=side)
        assert found.keys() == right.keys(), (found.keys(), right.keys())
        for name, tensor in found.items():
            assert torch.equal(tensor, right[name].to(tensor.dtype)), name
        processor.apply_chat_template = None  # so that a second reading fails
    del processor.apply_chat_template


of_weights, captions.load_model = captions.load_model, load_model
torch.cuda.device = lambda _: nullcontext()
torch.cuda.mem_get_info = lambda _: (2**30, 2**30)
captions.SlotDecoder = SimulatedGPU
slots._GRAPH_ROWS = (1, 2, 4)
load = getattr(captions, f"load_{MODEL}")
served = load(Settings(WEIGHTS, max_new_tokens=60, slots=ASKED_FOR, batch_size=4, kv_length=256))
assert served.decoder.slots == FIT
assert len(served.decoder._slots._graphs) == 4 * 3
# Settings of torch are those of a thread: the one that answers has to have them too.
limits: list[int] = []


def note_limit() -> None:
    with Compiled([(SimulatedGPU, "_captured")], dynamic=None):
        limits.append(torch._dynamo.config.recompile_limit)


thread = threading.Thread(target=note_limit)
thread.start()
thread.join()
assert limits == [64], limits
questions = [question(served, number) for number in range(24)]
for side in ("left", "right"):
    check_inputs(served, questions[:5], side)
decoder = served.decoder._slots
captured = memory(decoder)
with Waits() as waits:
    model = served._model.model
    hooks = (
        model.register_forward_pre_hook(waits.begins),
        model.register_forward_hook(waits.has_begun),
    )
    served.decoder.start([0, 1], questions[:2])
    for hook in hooks:
        hook.remove()
    assert not waits.seen, waits.seen
    waits.masks.clear()
    served.decoder.advance([0, 1])
    assert not waits.seen, waits.seen
    # Of bools, attention would make such a one itself, in each layer.
    assert waits.masks == {served._model.dtype}, waits.masks
    served.decoder.ended([0, 1])
    assert waits.seen == ["tolist"], waits.seen  # once in eight steps
    waits.seen.clear()
    for slot in (0, 1):
        served.decoder.stop(slot)
    assert not waits.seen, waits.seen
server = SlotServer(served.decoder, group=4, delay=0.01, patience=0.05, capacity=64)
answers: dict[int, Any] = {}
for number, each in enumerate(questions):
    server.submit(each, partial(answers.__setitem__, number))
server.close()
assert memory(decoder) == captured
wrong = [
    (number, answers[number], right)
    for number, each in enumerate(questions)
    for right in served.run([each])
    if isinstance(answers[number], Exception) or answers[number]["answer"] != right["answer"]
]
sys.exit(f"{len(wrong)} wrong, such as {wrong[0]}" if wrong else 0)
