"""Ports for servers that others start."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from weavloader.errors import Reason, TransientError

HOST = "127.0.0.1"
# Below the ports that outgoing connections take (Linux): one of those could take a port
# between its choice and its use.
_RANGE = range(20_000, 32_000)
_KEPT_SECONDS = 300.0
"""A port is not chosen again for so long: who has it may take as long to listen on it."""


def free_ports(amount: int) -> list[int]:
    """Ports on loopback that nothing listens on at this moment, all different.

    No process of this user is given one that another was given a while ago, and may listen on soon.

    Raises:
        TransientError: There are not so many.
    """
    with _given() as given:
        shuffled = random.SystemRandom().sample(_RANGE, len(_RANGE))
        found = list(islice((p for p in shuffled if p not in given and is_free(p)), amount))
        if len(found) < amount:
            raise TransientError(f"{amount} free ports were not found", reason=Reason.NO_PORTS)
        given.update(dict.fromkeys(found, time.time()))
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of loopback at this moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


@contextmanager
def _given() -> Iterator[dict[int, float]]:
    """When each port was given, of those given lately; this process alone reads and changes it."""
    path = Path(tempfile.gettempdir()) / f"weavloader-ports-{os.getuid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        since, given = time.time() - _KEPT_SECONDS, {}
        with suppress(ValueError):  # a process was killed while it wrote
            given = {int(port): at for port, at in json.loads(file.read()).items() if at > since}
        yield given
        file.seek(0)
        file.truncate()
        json.dump(given, file)
