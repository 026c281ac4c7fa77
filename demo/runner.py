"""``python main.py demo``: the whole system on real parts, and an account of every image."""

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

from demo.outcome_checker import show_account, show_verdict
from demo.progress import Watch, follow
from demo.servers.ports import HOST
from demo.servers.processes import adopt_orphans, kill_descendants
from demo.stack import ROOT, USER, Plan, Stack, fetch_servers
from weavloader.errors import Reason, TransientError, WeavloaderError
from weavloader.settings import load_settings, publish_to_environment

SEARCHES = ("a green field", "night", "snow on a ridge")
INTERRUPTED = 130
_PUBLISH_SECONDS = 10.0
_SEARCH_SECONDS = 60.0
_LONGEST_COMPLAINT = 1000
_PREVIEW_SERVER = (
    "A small server of Triton's gRPC protocol serves the preview models, instead of Triton."
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(images: int, keep: bool, images_dir: Path | None, preview_server: bool = False) -> int:
    """Run the demo; nothing it started is left when it returns.

    Args:
        images: How many images are drawn.
        keep: Leave everything running until Ctrl-C.
        images_dir: Pictures of the user's, published as well.
        preview_server: Serve the previews without Triton, as where it has no wheel.

    Returns:
        The exit code: 0 when every image became what it should.
    """
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="weavloader-demo-"))
    code = 1
    try:
        with _nothing_left_behind():
            plan = Plan.draw_up(folder, images, _PUBLISH_SECONDS, images_dir)
            code = _run(console, plan, keep, preview_server or not _has_triton())
    except KeyboardInterrupt:
        code = INTERRUPTED
    except WeavloaderError as error:
        console.print(f"The demo failed: {error}", style="bold red", markup=False)
    if code == 1:
        console.print(f"Logs are left in {folder / 'log'}.")
    else:
        rmtree(folder, ignore_errors=True)
    return code


@contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Take every wish to end as Ctrl-C, once; then no process of ours goes on."""
    adopt_orphans()
    heard = {n: before for n in _SIGNALS if (before := signal.getsignal(n)) != signal.SIG_IGN}
    for number in heard:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        _deafen()
        kill_descendants()
        for number, handler in heard.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _deafen()
    raise KeyboardInterrupt


def _deafen() -> None:
    """Let nothing interrupt the cleaning up; it is bounded in time."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _has_triton() -> bool:
    """Whether Triton's wheel exists for this system."""
    return platform.system() == "Linux"


def _run(console: Console, plan: Plan, keep: bool, without_triton: bool) -> int:
    with console.status("Fetching Redis and Triton (only the first time; minutes on Python 3.13)"):
        servers = fetch_servers(without_triton)
    if without_triton:
        console.print(_PREVIEW_SERVER)
    own_store = "weaviate_host" not in load_settings().model_fields_set
    for name, value in plan.environment(own_store).items():
        publish_to_environment(name, value)
    with Stack(plan, *servers) as stack:
        well = _demonstrate(console, plan, stack, keep)
        if keep:
            _wait(console, stack)
    return 0 if well else 1


def _demonstrate(console: Console, plan: Plan, stack: Stack, keep: bool) -> bool:
    began = time.monotonic()
    watch = Watch(plan, stack, load_settings())
    try:
        account, leaks = follow(console, watch), watch.leaks()
    finally:
        watch.close()
    show_account(console, account)
    _search(console)
    _show_addresses(console, plan, keep)
    console.print(f"{time.monotonic() - began:.0f} s from nothing to here.", highlight=False)
    return show_verdict(console, account, leaks)


def _search(console: Console) -> None:
    """Run the searches as a user would, side by side, and print what they say.

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
    words = [sys.executable, *command]
    try:
        done = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, timeout=_SEARCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        message = f"{shlex.join(command)}: no answer in {_SEARCH_SECONDS:.0f} s"
        raise TransientError(message, reason=Reason.DEMO_FAILED) from None
    if done.returncode:
        said = done.stderr.strip()[-_LONGEST_COMPLAINT:]
        raise TransientError(f"{shlex.join(command)}: {said}", reason=Reason.DEMO_FAILED)
    return done.stdout


def _show_addresses(console: Console, plan: Plan, keep: bool) -> None:
    """Print where a person can look."""
    console.print("\nServed on this machine" + ("" if keep else " until now (--keep stays)") + ":")
    ports = plan.ports
    table = Table.grid(padding=(0, 2))
    table.add_row("search and dead letters", f"http://{HOST}:{ports.web}/")
    table.add_row("metrics", f"http://{HOST}:{ports.metrics}/metrics")
    table.add_row("health", f"http://{HOST}:{ports.metrics}/health")
    table.add_row("Flower", f"http://{HOST}:{ports.flower}/  ({USER}, {plan.flower_password})")
    table.add_row("Redis", f"redis://{HOST}:{ports.redis}/0")
    table.add_row("logs", str(plan.folder / "log"))
    console.print(table)


def _wait(console: Console, stack: Stack) -> None:
    console.print("Everything is left running; Ctrl-C ends it.", style="bold")
    try:
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("Ending.")
