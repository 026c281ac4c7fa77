"""What each stage of an image costs, in one process, and what passes to each peer meanwhile.

Run as a program it is that process: it reads messages of images (a JSON array) from standard
input, brings each into the store and prints what that cost. Its environment leads to the
peers by way of relays that count.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import redis

from benchmarks.stack import Relay, Stack, relayed
from weavloader.images.job import ImageJob

# Connections are made, and caches filled, by the first ones.
WARM_UP = 8
_PROFILED_LINES = 30
_MODEL_REQUESTS = "nv_inference_request_success{"


@dataclass(slots=True)
class CpuStages:
    """As :class:`processing.Stages`, but of the whole process's processor time."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the processor time spent inside to stage ``name``."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - start


def measure_stages(stack: Stack, images: int, profile: Path | None) -> dict[str, Any]:
    """Bring ``images`` images into the store, one after another.

    Returns:
        ``cpu_ms`` by stage, ``mb`` sent and received by peer and ``requests`` by peer, each
        per image.
    """
    with ExitStack() as block:
        relays = {
            name: block.enter_context(relayed(target)) for name, target in stack.peers().items()
        }
        jobs = stack.sage.hold("stages", WARM_UP + images).jobs(relays["sage"].host)
        with _running(stack, relays, profile) as process:
            _bring_in(process, jobs[:WARM_UP])
            before = _requests(stack), _bytes(relays)
            cpu_ms = _bring_in(process, jobs[WARM_UP:])
            after = _requests(stack), _bytes(relays)
    return {
        "cpu_ms": {name: seconds * 1000 / images for name, seconds in cpu_ms.items()},
        "requests": _per_image(before[0], after[0], images),
        "mb": _per_image(before[1], after[1], images * 1_000_000),
    }


@contextmanager
def _running(
    stack: Stack, relays: dict[str, Relay], profile: Path | None
) -> Iterator[subprocess.Popen[str]]:
    environment = [f"{name}={value}" for name, value in stack.environment(relays).items()]
    command = ["env", *environment, sys.executable, "-m", "benchmarks.stages"]
    with subprocess.Popen(
        [*command, *([str(profile)] if profile else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def _bring_in(process: subprocess.Popen[str], jobs: Sequence[ImageJob]) -> dict[str, float]:
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps([job.to_message() for job in jobs]) + "\n")
    process.stdin.flush()
    return dict(json.loads(process.stdout.readline()))


def _requests(stack: Stack) -> dict[str, float]:
    models = {}
    for line in httpx.get(stack.triton_metrics(), timeout=30).text.splitlines():
        if line.startswith(_MODEL_REQUESTS):
            models[line.partition('model="')[2].partition('"')[0]] = float(line.split()[-1])
    with redis.Redis.from_url(stack.redis_url, socket_timeout=30) as client:
        commands = client.info("stats")["total_commands_processed"]
    sage = stack.sage.requests()
    return {**models, "redis": commands, **{f"sage {name}": sage[name] for name in sage}}


def _bytes(relays: dict[str, Relay]) -> dict[str, float]:
    sent = {f"to {name}": float(relay.traffic.sent) for name, relay in relays.items()}
    return sent | {f"from {name}": float(relay.traffic.received) for name, relay in relays.items()}


def _per_image(
    before: dict[str, float], after: dict[str, float], divisor: float
) -> dict[str, float]:
    return {name: (after[name] - before.get(name, 0.0)) / divisor for name in after}


def _work(profile: str | None) -> None:
    from job_system.dependencies import dead_letters, pipeline  # settings of this process
    from job_system.worker_process import keep_freed_buffers
    from processing import process_image

    keep_freed_buffers()
    profiler = cProfile.Profile(time.process_time)
    for batch, line in enumerate(sys.stdin):
        stages = CpuStages()
        pipe = replace(
            pipeline(),
            embed={name: _timed(stages, name, call) for name, call in pipeline().embed.items()},
        )
        if profile and batch:
            profiler.enable()
        start = time.process_time()
        for message in json.loads(line):
            job = ImageJob.from_message(message)
            process_image(job, pipe, stages)  # type: ignore[arg-type]
            with stages.timed("settle"):
                dead_letters().resolve(job.id)
        profiler.disable()
        _answer(stages, time.process_time() - start)
    if profile:
        profiler.dump_stats(profile)
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(_PROFILED_LINES)


def _timed(stages: CpuStages, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def timed_call(*args: Any) -> Any:
        with stages.timed(f"embed {name}"):
            return call(*args)

    return timed_call


def _answer(stages: CpuStages, total: float) -> None:
    seconds = dict(stages.seconds)
    seconds.pop("embed", None)  # each model has its own
    seconds["other"] = total - sum(seconds.values())
    print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    _work(sys.argv[1] if len(sys.argv) > 1 else None)
