"""Answers in slots: those of ``generate``, for every mix of requests and through every fault."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import InferenceServerClient

from demo.servers.triton import Triton
from demo.servers.triton_install import install
from inference.triton import Tensor, text_tensor
from tests.models.calls import call, picture, valid
from tools.served_models import REPOSITORY, only, packages, serve
from weavloader.errors import PermanentError, TransientError

pytestmark = [pytest.mark.models, pytest.mark.timeout(400)]

CALLERS = 16
MODELS = ("gemma3", "qwen2_5_vl")
NUMBERS = range(40)
LENGTHS = {"GEMMA3_MAX_NEW_TOKENS": "60", "QWEN2_5_VL_MAX_NEW_TOKENS": "60"}
GENERATE = {"MODELS_SLOTS": "1", "MODELS_BATCH_SIZE": "1"}
# Fewer than callers, and read in small groups: some wait for others to end.
SLOTS = {"MODELS_SLOTS": "6", "MODELS_BATCH_SIZE": "4", "MODELS_KV_LENGTH": "512"}


def question(number: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Inputs of another size, prompt and longest answer for each number; some fit into no slot."""
    rng = np.random.default_rng(number)
    letters = 900 if number % 10 == 9 else int(rng.integers(1, 150))
    prompt = "".join(chr(97 + letter) for letter in rng.integers(0, 26, letters))
    height, width = rng.integers(20, 200, 2)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    parameters = {"max_new_tokens": str(rng.integers(1, 70))}
    return {"image": image, "prompt": text_tensor(prompt)}, parameters


def both(folder: Path) -> Path:
    folder.mkdir()
    for model in MODELS:
        (folder / model).symlink_to(REPOSITORY / model)
    return folder


def ask(client: InferenceServerClient, model: str, number: int) -> bytes:
    inputs, parameters = question(number)
    return bytes(call(client, model, inputs, parameters)["answer"][0])


@pytest.fixture(scope="module")
def expected(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """For each model the answers of ``generate``, one by one."""
    folder = tmp_path_factory.mktemp("generate")
    log, repository = folder / "log", both(folder / "models")
    with serve(weights, log, LENGTHS | GENERATE, repository) as server:
        client = InferenceServerClient(server.url)
        found = {model: [ask(client, model, number) for number in NUMBERS] for model in MODELS}
        client.close()
    assert "of 512 tokens" not in log.read_text()
    assert len({len(answer.decode()) for answer in found["gemma3"]}) > 10
    assert len(set(found["gemma3"])) > 30
    return found


def served(server: Triton, name: str, **labels: str) -> float:
    """The value of a metric that the models publish on Triton's own port."""
    page = httpx.get(f"http://127.0.0.1:{server.ports.metrics}/metrics", timeout=30).text
    wanted = ("weavloader_served_" + name, labels)
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if (sample.name, sample.labels) == wanted
    )
    return float(value)


def test_answers_are_those_of_generate(
    expected: dict[str, list[bytes]], weights: Path, tmp_path: Path
) -> None:
    repository, log = both(tmp_path / "models"), tmp_path / "slots"
    with serve(weights, log, LENGTHS | SLOTS, repository) as server:
        client = InferenceServerClient(server.url)
        with ThreadPoolExecutor(CALLERS) as pool:
            for model in MODELS:
                answers = list(pool.map(lambda n, m=model: ask(client, m, n), NUMBERS))
                assert answers == expected[model]
                answered = served(server, "requests_total", model=model, outcome="answered")
                assert answered == len(NUMBERS)
                assert served(server, "slots", model=model) == 6
                assert served(server, "slots_in_use", model=model) == 0
        client.close()
    assert log.read_text().count("6 slots of 512 tokens") == len(MODELS)
    assert log.read_text().count("decoded alone: ") == len(MODELS) * 4
    assert "compiled pieces" not in log.read_text()  # which only a GPU gains by


def test_answers_of_compiled_pieces_are_those_of_generate(
    expected: dict[str, list[bytes]], weights: Path, tmp_path: Path
) -> None:
    log, settings = tmp_path / "slots", LENGTHS | SLOTS | {"MODELS_COMPILE_PIECES": "on"}
    with serve(weights, log, settings, both(tmp_path / "models")) as server:
        client = InferenceServerClient(server.url)
        with ThreadPoolExecutor(CALLERS) as pool:
            for model in MODELS:
                answers = list(pool.map(lambda n, m=model: ask(client, m, n), NUMBERS))
                assert answers == expected[model]
        client.close()
    assert log.read_text().count("compiled pieces of the model in ") == len(MODELS)
    assert "nothing is compiled" not in log.read_text()


def test_without_a_compiler_the_log_says_so_and_requests_are_answered(
    weights: Path, tmp_path: Path
) -> None:
    log, settings = tmp_path / "log", {"GEMMA3_COMPILE_PIECES": "on", "CXX": "/bin/false"}
    settings["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "compiled")
    with serve(weights, log, settings, only("gemma3", tmp_path / "models")) as server:
        client = InferenceServerClient(server.url)
        assert ask(client, "gemma3", 1)
        client.close()
    (line,) = (each for each in log.read_text().splitlines() if "nothing is compiled" in each)
    assert "No working C++ compiler found" in line
    assert "compiled pieces" not in log.read_text()


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_generate_where_graphs_are_replayed(model: str, weights: Path) -> None:
    program = Path(__file__).with_name("graphs_on_a_cpu.py")
    python = install(packages=packages()).python
    line: list[str | Path] = [python, program, REPOSITORY.parent, weights / model, model]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=300, env={"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5"])
def test_a_limit_that_is_no_positive_number_is_refused(
    limit: str, models: InferenceServerClient
) -> None:
    with pytest.raises(PermanentError, match="max_new_tokens: expected a positive number"):
        call(models, "gemma3", valid("gemma3"), {"max_new_tokens": limit})


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A repository of Gemma 3 with faults to order."""
    folder = tmp_path / "models" / "gemma3"
    (folder / "1").mkdir(parents=True)
    shutil.copy(REPOSITORY / "gemma3" / "config.pbtxt", folder)
    shutil.copy(Path(__file__).with_name("faulty_gemma3.py"), folder / "1" / "model.py")
    return folder.parent


@pytest.fixture
def faulty_server(
    weights: Path, tmp_path: Path, faulty: Path
) -> Iterator[tuple[InferenceServerClient, Triton]]:
    """A server out of memory with more than 4 slots, and a client of it."""
    log = tmp_path / "log"
    settings = {
        "FAULTY_SLOTS": "4",
        "FAULTY_SERVING": str(REPOSITORY.parent),
        "FAULTY_PIXEL": "1 2 3",
    }
    with serve(weights, log, settings, faulty) as server:
        client = InferenceServerClient(server.url)
        yield client, server
        client.close()


def test_without_memory_there_are_fewer_slots_and_the_same_answers(
    faulty_server: tuple[InferenceServerClient, Triton], tmp_path: Path
) -> None:
    client, server = faulty_server
    asked = [valid("gemma3", number) for number in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        together = list(pool.map(lambda inputs: call(client, "gemma3", inputs), asked))
    assert together == [call(client, "gemma3", inputs) for inputs in asked]
    assert served(server, "out_of_memory_total", model="gemma3") == 2
    assert served(server, "slots", model="gemma3") == 4
    told = (tmp_path / "log").read_text()
    assert "out of memory: 8 slots from now on" in told
    assert "out of memory: 4 slots from now on" in told
    assert "2 slots from now on" not in told


def test_a_picture_that_cannot_be_prepared_fails_alone(
    faulty_server: tuple[InferenceServerClient, Triton],
) -> None:
    client, _ = faulty_server
    image = picture(1)
    image[0, 0] = 1, 2, 3
    bad = {**valid("gemma3", 1), "image": image}
    asked = [bad if number % 5 == 0 else valid("gemma3", number) for number in range(CALLERS)]

    def answered(inputs: dict[str, Tensor]) -> bytes | None:
        try:
            return bytes(call(client, "gemma3", inputs)["answer"][0])
        except TransientError as error:
            assert "a spoiled picture" in str(error)
            return None

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(answered, asked))
    assert [number for number, answer in enumerate(answers) if answer is None] == [0, 5, 10, 15]
    assert [answers[number] for number in (1, 2)] == [answered(asked[number]) for number in (1, 2)]


def test_the_answer_of_a_caller_who_gave_up_is_written_no_further(
    weights: Path, tmp_path: Path
) -> None:
    # Its tiny weights never end an answer by themselves.
    model = "qwen2_5_vl"
    repository, log = only(model, tmp_path / "models"), tmp_path / "log"
    settings = {
        "QWEN2_5_VL_SLOTS": "4",
        "QWEN2_5_VL_MAX_NEW_TOKENS": "100000",
        "QWEN2_5_VL_KV_LENGTH": "100500",
    }
    with serve(weights, log, settings, repository) as server, ThreadPoolExecutor(4) as pool:
        client = InferenceServerClient(server.url)
        hasty = [
            pool.submit(call, client, model, valid(model, number), timeout=2.0)
            for number in range(4)
        ]
        assert all(isinstance(each.exception(60), TransientError) for each in hasty)
        # All slots would be taken for minutes.
        began = time.monotonic()
        assert call(client, model, valid(model), {"max_new_tokens": "4"}, timeout=60)
        assert time.monotonic() - began < 60
        assert served(server, "requests_total", model=model, outcome="abandoned") == 4
        assert served(server, "answers_trimmed_total", model=model, cause="cut_off") == 1
        client.close()
    assert log.read_text().count("stopped: the caller has given up") == 4
