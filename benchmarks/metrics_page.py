"""What a page costs when 10,000 nodes are counted: ``python -m benchmarks.metrics_page``.

Four processes count images of all nodes and go on living; a fifth has ended. A real Redis and a
real metrics server are asked every 5 s.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.support.metrics_endpoint import ROOT, metrics_server
from tests.support.redis_fixture import StoppableRedis

NODES = 10_000
PROCESSES = 4
SCRAPES = 6
INTERVAL = 5.0
_COUNT = (
    "from metrics import metrics\n"
    f"for n in range({NODES}):\n    metrics.count_received(f'W{{n}}', 'sage', 'sampler', 'top')\n"
    "print('counted', flush=True)\n"
)


def main() -> None:
    """Print the time, size and memory of each scrape."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        redis = StoppableRedis(folder)
        redis.start()
        stack.callback(redis.stop)
        server = stack.enter_context(metrics_server(folder, redis))
        for number in range(PROCESSES + 1):
            stack.callback(_counting(folder / "values", lives=number < PROCESSES).kill)
        print("seconds  bytes     series  server MiB")
        for _ in range(SCRAPES):
            began = time.monotonic()
            page = server.metrics()
            took = time.monotonic() - began
            series = sum(not line.startswith("#") for line in page.splitlines())
            memory = _resident_mib(server.process.pid)
            print(f"{took:7.2f}  {len(page):8}  {series:6}  {memory:10.0f}", flush=True)
            time.sleep(max(0.0, INTERVAL - took))


def _counting(directory: Path, lives: bool) -> subprocess.Popen[bytes]:
    code = _COUNT + ("import sys; sys.stdin.read()" if lives else "")
    process = subprocess.Popen(
        ["env", f"PROMETHEUS_MULTIPROC_DIR={directory}", sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
