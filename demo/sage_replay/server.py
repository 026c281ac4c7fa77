"""A replay that runs: its three listeners, alone in a loop or in a thread of a test."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, url

from demo.sage_replay.catalogue import Catalogue
from demo.sage_replay.faults import Fault, Ledger
from demo.sage_replay.handlers import (
    FaultsHandler,
    ForeignHandler,
    ManifestHandler,
    QueryHandler,
    ReplayState,
    SignedHandler,
    StatsHandler,
    StorageHandler,
)

HOST = "127.0.0.1"


class Replay:
    """A server that behaves like SAGE, the host that its signed links lead to, and another host.

    All are on loopback unless told.

    As a context manager it runs in a thread while the ``with`` block does.

    Args:
        catalogue: What it holds. Links in it name the ports, so a catalogue may also be set
            (:attr:`catalogue`) once the ports are known.
        user: With ``password``, what storage asks for.
        port: 0 takes a free one, as for ``other_port`` and ``signed_port``.
        address: Where it listens.
        name: How others reach it, when not by that address.
    """

    def __init__(
        self,
        catalogue: Catalogue | None = None,
        *,
        user: str = "sage",
        password: str = "replayed",  # noqa: S107 - guards drawn pictures
        port: int = 0,
        other_port: int = 0,
        signed_port: int = 0,
        address: str = HOST,
        name: str | None = None,
    ) -> None:
        self._state = ReplayState(catalogue or Catalogue(), user, password)
        self._sockets = bind_sockets(port, address)
        self._other_sockets = bind_sockets(other_port, address)
        self._signed_sockets = bind_sockets(signed_port, address)
        self.host = f"{name or address}:{self._sockets[0].getsockname()[1]}"
        self.other_host = f"{name or address}:{self._other_sockets[0].getsockname()[1]}"
        self.signed_host = f"{name or address}:{self._signed_sockets[0].getsockname()[1]}"
        self._state.signed_host = self.signed_host
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve_in_thread()))

    @property
    def catalogue(self) -> Catalogue:
        """What it holds; setting it publishes anew."""
        return self._state.catalogue

    @catalogue.setter
    def catalogue(self, catalogue: Catalogue) -> None:
        self._state.hold(catalogue)

    @property
    def lists_all(self) -> bool:
        """Whether every record is listed by now; the first appears when somebody asks."""
        return self._state.publication.is_complete()

    @property
    def ledger(self) -> Ledger:
        """What was asked so far."""
        return self._state.ledger

    def environment(self) -> dict[str, str]:
        """The settings that lead Weavloader here instead of to SAGE."""
        return {
            "SAGE_DATA_API": f"http://{self.host}/api/v1/query",
            "SAGE_STORAGE_HOSTS": f"http://{self.host}",
            "SAGE_PUBLIC_HOSTS": f"http://{self.signed_host}",
            "MANIFEST_API": f"http://{self.host}/manifests/",
            "SAGE_USER": self._state.user,
            "SAGE_PASS": self._state.password,
        }

    def add_fault(self, fault: Fault) -> None:
        """Let something go wrong with requests to come."""
        self._state.faults.add(fault)

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set."""
        listeners = (
            (_sage(self._state), self._sockets),
            (_signed(self._state), self._signed_sockets),
            (_other(self._state), self._other_sockets),
        )
        servers = []
        for app, sockets in listeners:
            servers.append(server := HTTPServer(app))
            server.add_sockets(sockets)
        self._ready.set()
        await stop.wait()
        for server in servers:
            server.stop()
            await server.close_all_connections()

    async def _serve_in_thread(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, lambda: (self._stop.wait(), loop.call_soon_threadsafe(stop.set)))
        await self.serve(stop)

    def __enter__(self) -> Replay:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def _sage(state: ReplayState) -> Application:
    shared = {"state": state}
    routes = [
        url(r"/api/v1/query", QueryHandler, shared),
        url(r"/api/v1/data/(.*)", StorageHandler, shared),
        url(r"/manifests/(.*)", ManifestHandler, shared),
        url(r"/stats", StatsHandler, shared),
        url(r"/faults", FaultsHandler, shared),
    ]
    return Application(routes, log_function=lambda handler: None)


def _signed(state: ReplayState) -> Application:
    routes = [url(r"/signed/(.+)", SignedHandler, {"state": state})]
    return Application(routes, log_function=lambda handler: None)


def _other(state: ReplayState) -> Application:
    routes = [url(r"/(.*)", ForeignHandler, {"state": state})]
    return Application(routes, log_function=lambda handler: None)
