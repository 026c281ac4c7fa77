"""Ports for servers that others start."""

import random
import socket

from weavloader.errors import Reason, TransientError

HOST = "127.0.0.1"
# Below the ports that outgoing connections take (Linux): one of those could take a port
# between its choice and its use.
_RANGE = range(20_000, 32_000)


def free_ports(amount: int) -> list[int]:
    """Ports on loopback that nothing listens on at this moment, all different.

    Raises:
        TransientError: There are not so many.
    """
    tried = iter(random.SystemRandom().sample(_RANGE, len(_RANGE)))
    found: list[int] = []
    for port in tried:
        if len(found) == amount:
            return found
        if is_free(port):
            found.append(port)
    raise TransientError(f"{amount} free ports were not found", reason=Reason.NO_PORTS)


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of loopback at this moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
