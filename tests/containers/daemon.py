"""podman in the place of Docker's daemon, and the timer of health checks that it lacks here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from demo.servers.waiting import wait_until
from tests.containers.engine import Engine

_HEALTH_SECONDS = 2.0


@contextmanager
def docker_host(engine: Engine) -> Iterator[str]:
    """The address of podman's service, which speaks Docker's API while the block runs."""
    # A socket's path may have some 100 characters, fewer than a checkout's may.
    socket = Path(f"/run/weavloader-tests-{engine.folder.stat().st_ino}.sock")
    with (engine.folder / "service.log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{socket}"],
            env=engine.environment(),
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(socket.exists, "podman's service listens")
        with _health_checks(engine):
            yield f"unix://{socket}"
    finally:
        service.terminate()
        service.wait(30)
        socket.unlink(missing_ok=True)


@contextmanager
def _health_checks(engine: Engine) -> Iterator[None]:
    """Run every container's health check again and again: podman leaves that to systemd."""
    stop = Event()
    thread = Thread(target=_check, args=(engine, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _check(engine: Engine, stop: Event) -> None:
    while not stop.wait(_HEALTH_SECONDS):
        names = engine.podman("ps", "--filter", "status=running", "--format", "{{.Names}}").split()
        for name in names:
            # Fails for one without a check, and for one that ended meanwhile.
            engine.podman("healthcheck", "run", name, check=False)
