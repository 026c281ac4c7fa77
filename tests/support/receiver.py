"""A receiver of deliveries: verifies each as a receiver should, and answers as a test says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.local_server import Answer, LocalServer, Request, local_server


@dataclass(slots=True)
class Receiver:
    """The receiver as its test sees it.

    Attributes:
        status: Of the next answers; with ``headers``.
        secret: What deliveries must be signed with; empty to believe all.
        deliveries: Bodies of those that were accepted, by their id.
        ids: The id of every request, accepted or not, in order.
    """

    server: LocalServer
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    secret: str = ""
    deliveries: dict[str, Any] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """What a webhook is set to."""
        return f"{self.server.url}/hook"

    @property
    def images(self) -> list[str]:
        """Ids of the images received, those of repeated deliveries once."""
        found = (body["data"].get("images", []) for body in self.deliveries.values())
        return [image["id"] for images in found for image in images]

    def take(self, request: Request) -> Answer:
        """Answer a request."""
        delivery_id = request.headers["webhook-id"]
        self.ids.append(delivery_id)
        if self.secret:
            assert request.headers["webhook-signature"] == self._signature(request)
        if 200 <= self.status < 300:
            self.deliveries[delivery_id] = json.loads(request.body)
        return Answer(self.status, (), {"Content-Length": "0", **self.headers})

    def _signature(self, request: Request) -> str:
        """Calculated anew from the specification, not by the code under test."""
        stamp = request.headers["webhook-timestamp"]
        signed = f"{request.headers['webhook-id']}.{stamp}.".encode() + request.body
        key = base64.b64decode(self.secret[len("whsec_") :])
        return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    with local_server(lambda request: receiver.take(request)) as server:
        receiver = Receiver(server)
        yield receiver
