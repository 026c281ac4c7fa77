"""``python main.py demo``: runs the whole system here and checks the outcome of every image."""

from __future__ import annotations

import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from types import FrameType

from rich.console import Console
from rich.table import Table

from demo.outcome_checker import show_outcomes, show_verdict
from demo.progress import ProgressTracker, follow
from demo.servers.ports import HOST
from demo.servers.processes import adopt_orphans, kill_descendants
from demo.stack import ROOT, USER, Plan, Stack, fetch_servers
from weavloader.errors import Reason, TransientError, WeavloaderError
from weavloader.settings import load_settings, publish_to_environment

PAGES = "web pages"  # in the list of addresses; tools/screenshots.py reads it
SEARCHES = ("a green field", "night", "snow on a ridge")
INTERRUPTED = 130
_PUBLISH_SECONDS = 10.0
_SEARCH_SECONDS = 180.0
_MAX_ERROR_CHARACTERS = 1000
_PREVIEW_SERVER = (
    "A small server of Triton's gRPC protocol serves the preview models, instead of Triton."
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(images: int, keep: bool, images_dir: Path | None, preview_server: bool = False) -> int:
    """Run the demo, and end everything it started.

    Args:
        images: The number of drawn images.
        keep: Leave everything running until Ctrl-C.
        images_dir: A folder of the user's pictures, published as well.
        preview_server: Serve the previews without Triton, as where it has no wheel.

    Returns:
        The exit code: 0 when every image has the expected outcome.
    """
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="weavloader-demo-"))
    code = 1
    try:
        with _processes_ended():
            plan = Plan.draw_up(folder, images, _PUBLISH_SECONDS, images_dir)
            code = _run(console, plan, keep, preview_server or not _has_triton())
    except KeyboardInterrupt:
        code = INTERRUPTED
    except WeavloaderError as error:
        console.print(f"The demo failed: {error}", style="bold red", markup=False)
    if code == 1:
        console.print(f"The logs are in {folder / 'log'}.")
    else:
        rmtree(folder, ignore_errors=True)
    return code


@contextmanager
def _processes_ended() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP as Ctrl-C, once; then end every process below this one."""
    adopt_orphans()
    previous = {n: before for n in _SIGNALS if (before := signal.getsignal(n)) != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        _ignore_signals()
        kill_descendants()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """Let nothing interrupt the clean-up, whose time is limited."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _has_triton() -> bool:
    """Whether Triton's wheel exists for this system."""
    return platform.system() == "Linux"


def _run(console: Console, plan: Plan, keep: bool, without_triton: bool) -> int:
    began = time.monotonic()
    with console.status("Fetching Redis and Triton (only the first time; minutes on Python 3.13)"):
        servers = fetch_servers(without_triton)
    if without_triton:
        console.print(_PREVIEW_SERVER)
    own_store = "weaviate_host" not in load_settings().model_fields_set
    for name, value in plan.environment(own_store).items():
        publish_to_environment(name, value)
    with Stack(plan, *servers) as stack:
        has_passed = _demonstrate(console, plan, stack, keep)
        console.print(f"The demo took {time.monotonic() - began:.0f} s.", highlight=False)
        if keep:
            _wait(console, stack)
    return 0 if has_passed else 1


def _demonstrate(console: Console, plan: Plan, stack: Stack, keep: bool) -> bool:
    tracker = ProgressTracker(plan, stack, load_settings())
    try:
        results, leaks = follow(console, tracker), tracker.leaks()
    finally:
        tracker.close()
    show_outcomes(console, results)
    _search(console)
    _show_addresses(console, plan, keep)
    return show_verdict(console, results, leaks)


def _search(console: Console) -> None:
    """Run the searches as a user would, in parallel, and print their output.

    Raises:
        TransientError: One of them failed.
    """
    publish_to_environment("COLUMNS", str(console.width))
    commands = [["main.py", "search", text, "--limit", "5"] for text in SEARCHES]
    with ThreadPoolExecutor() as pool:
        for command, output in zip(commands, pool.map(_output, commands), strict=True):
            console.print(f"\n$ python {shlex.join(command)}", style="bold", highlight=False)
            console.print(output.rstrip(), markup=False, highlight=False)


def _output(command: Sequence[str]) -> str:
    words = [sys.executable, *command, "--format", "table"]
    try:
        done = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, timeout=_SEARCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        message = f"{shlex.join(command)}: no answer in {_SEARCH_SECONDS:.0f} s"
        raise TransientError(message, reason=Reason.DEMO_FAILED) from None
    if done.returncode:
        said = done.stderr.strip()[-_MAX_ERROR_CHARACTERS:]
        raise TransientError(f"{shlex.join(command)}: {said}", reason=Reason.DEMO_FAILED)
    return done.stdout


def _show_addresses(console: Console, plan: Plan, keep: bool) -> None:
    """Print where the servers of the demo listen."""
    console.print(
        "\nAddresses" + ("" if keep else " (the demo ends now; --keep leaves them)") + ":"
    )
    ports = plan.ports
    table = Table.grid(padding=(0, 2))
    table.add_row(PAGES, f"http://{HOST}:{ports.web}/")
    table.add_row("metrics", f"http://{HOST}:{ports.metrics}/metrics")
    table.add_row("health", f"http://{HOST}:{ports.metrics}/health")
    table.add_row("Flower", f"http://{HOST}:{ports.flower}/  ({USER}, {plan.flower_password})")
    table.add_row("Redis", f"redis://{HOST}:{ports.redis}/0")
    table.add_row("logs", str(plan.folder / "log"))
    console.print(table)


def _wait(console: Console, stack: Stack) -> None:
    console.print("The system is running. Press Ctrl-C to stop it.", style="bold")
    try:
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("Stopping.")
