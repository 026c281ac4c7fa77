"""A way to a server that can forget its connections, as a firewall does that drops idle ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from demo.servers.ports import HOST


class Firewall:
    """Forwards connections to a port of this machine.

    Args:
        target: That port; another one counts for connections from then on.
        address: Where it listens.

    Attributes:
        sent: Bytes that came from clients.
    """

    def __init__(self, target: int, address: tuple[str, int] = (HOST, 0)) -> None:
        self.target = target
        self._listening = socket.create_server(address)
        self.port: int = self._listening.getsockname()[1]
        self.accepted = 0
        self.sent = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._nears: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._threads: list[Thread] = []
        self._start(self._accept)

    def forget(self) -> None:
        """Drop all that is sent on the present connections; both ends take them for open."""
        self._forgotten.update(end for pair in self._pairs for end in pair)

    def close(self) -> None:
        """Close everything."""
        ends = [self._listening, *(end for pair in self._pairs for end in pair)]
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in ends:
            end.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                try:
                    far = socket.create_connection((HOST, self.target))
                except OSError:
                    near.close()
                    continue
                self.accepted += 1
                self._pairs.append((near, far))
                self._nears.add(near)
                self._start(self._forward, near, far)
                self._start(self._forward, far, near)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.sent += len(data) if source in self._nears else 0
                if source not in self._forgotten:
                    target.sendall(data)
            if source not in self._forgotten:
                target.shutdown(socket.SHUT_WR)


@contextmanager
def firewall(target: int, address: tuple[str, int] = (HOST, 0)) -> Iterator[Firewall]:
    """A firewall while the block runs."""
    running = Firewall(target, address)
    try:
        yield running
    finally:
        running.close()
