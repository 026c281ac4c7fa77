"""What the handlers of one replay share: its state, and faults that happen to any of them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from base64 import b64encode
from dataclasses import dataclass, field

from tornado.web import RequestHandler

from demo.sage_replay.catalogue import Catalogue, Publication
from demo.sage_replay.faults import Fault, Faults, Ledger


@dataclass(slots=True)
class ReplayState:
    """What the handlers of one replay share.

    Attributes:
        user: With ``password``, what storage asks for.
        other_host: ``host:port`` that signed links lead to; known once it listens.
    """

    catalogue: Catalogue
    user: str
    password: str
    other_host: str = ""
    publication: Publication = field(init=False)
    faults: Faults = field(default_factory=Faults)
    ledger: Ledger = field(default_factory=Ledger)
    signing_key: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def __post_init__(self) -> None:
        """Start with nothing published."""
        self.publication = Publication(self.catalogue)

    def hold(self, catalogue: Catalogue) -> None:
        """Exchange the catalogue; nothing of the new one is published yet."""
        self.catalogue = catalogue
        self.publication = Publication(catalogue)

    def authorization(self) -> str:
        """The header that storage accepts."""
        return "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode()

    def signature(self, path: str) -> str:
        """What a signed link to ``path`` carries."""
        return hmac.new(self.signing_key, path.encode(), hashlib.sha256).hexdigest()


class ReplayHandler(RequestHandler):
    """Counts each request and lets faults happen to it."""

    kind = ""
    fault: Fault | None = None

    def initialize(self, state: ReplayState) -> None:
        """Take what the route holds."""
        self.state = state

    async def prepare(self) -> None:
        """Count the request; stall or fail it where a fault says so."""
        header = self.request.headers.get("Authorization")
        self.state.ledger.note(self.kind, self.request.path, header)
        self.fault = self.state.faults.take(self.kind)
        if self.fault is not None and self.fault.kind == "stall":
            await asyncio.sleep(self.fault.seconds)
        if self.fault is not None and self.fault.kind == "status":
            self.set_status(self.fault.status)
            self.finish("a fault that was asked for\n")

    def on_finish(self) -> None:
        """Count the answer."""
        self.state.ledger.statuses[self.kind][self.get_status()] += 1

    def has_fault(self, kind: str) -> bool:
        """Whether a fault of this kind meets the present request."""
        return self.fault is not None and self.fault.kind == kind

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error as storage words it."""
        self.set_status(status)
        self.finish({"error": message})
