"""A relay between a client and a server of TCP that counts what passes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_CHUNK = 1 << 18


@dataclass(slots=True)
class Traffic:
    """Bytes that passed, as the client sees them."""

    sent: int = 0
    received: int = 0


class Relay:
    """Listens on loopback and passes everything on to ``target``.

    Attributes:
        host: Where it listens, ``host:port``.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.traffic = Traffic()
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Accept until :meth:`close`."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._start(client, server, "sent")
                self._start(server, client, "received")

    def close(self) -> None:
        """End every connection."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        threading.Thread(target=self._pass, args=(source, target, counter), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                # Each direction has a thread and a counter of its own for each connection;
                # the sum may lose one addition to another's, never much of it.
                setattr(self.traffic, counter, getattr(self.traffic, counter) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(target: str) -> Iterator[Relay]:
    """A relay to ``target`` while the block runs."""
    relay = Relay(target)
    threading.Thread(target=relay.serve, daemon=True).start()
    try:
        yield relay
    finally:
        relay.close()
