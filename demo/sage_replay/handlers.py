"""The handlers of a replay: data API, manifests, storage, another host, and its own two pages."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from tornado.iostream import StreamClosedError
from tornado.web import Finish, HTTPError, RequestHandler

from demo.sage_replay.catalogue import Catalogue, Publication, StoredObject
from demo.sage_replay.faults import (
    DATA,
    FLOOD_BYTES,
    MANIFESTS,
    OTHER_HOST,
    SIGNED_HOST,
    STORAGE,
    Fault,
    Faults,
    Ledger,
    deflate_bomb,
)
from demo.sage_replay.query import QueryError, parse_query, select

_FLUSH_EVERY = 200
# A signed link is good for so long.
LINK_SECONDS = 60
_OBJECT_PATH = re.compile(r"[^/]+/[^/]+/[^/]+/\d+-.+")


@dataclass(slots=True)
class ReplayState:
    """What the handlers of one replay share.

    Attributes:
        user: With ``password``, what storage asks for.
        signed_host: ``host:port`` that signed links lead to; known once it listens.
    """

    catalogue: Catalogue
    user: str
    password: str
    signed_host: str = ""
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

    def signature(self, path: str, expires: str) -> str:
        """What a signed link to ``path`` carries, beside when it expires (Unix seconds)."""
        signed = f"{path}?{expires}".encode()
        return hmac.new(self.signing_key, signed, hashlib.sha256).hexdigest()


_DRIPS = 10_000


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
        if self.has_fault("deflate_bomb"):
            self.set_header("Content-Encoding", "deflate")
            self.finish(deflate_bomb())
        if self.has_fault("endless_error"):
            await self._answer_without_end()
        if self.has_fault("drip"):
            await self._drip()

    async def _drip(self) -> None:
        assert self.fault is not None
        try:
            for _ in range(_DRIPS):
                self.write(b"\n")
                await self.flush()
                await asyncio.sleep(self.fault.seconds)
            self.finish()
        except StreamClosedError:
            raise Finish from None  # the client has waited enough

    async def _answer_without_end(self) -> None:
        self.set_status(500)
        part = bytes(2**16)
        try:
            for _ in range(FLOOD_BYTES // len(part)):
                self.write(part)
                await self.flush()
            self.finish()
        except StreamClosedError:
            raise Finish from None  # the client has read enough

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


class QueryHandler(ReplayHandler):
    """``POST /api/v1/query``: one record a line, as they are found."""

    kind = DATA

    async def post(self) -> None:
        """Answer a query."""
        self.state.publication.begin()
        try:
            query = parse_query(self.request.body, time.time_ns())
        except QueryError as error:
            self.set_status(400)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(f"error: {error}\n")
            return
        answers = select(self.state.publication.visible(), query)
        self.set_header("Content-Type", "application/x-ndjson")
        await self._stream([json.dumps(entry.record) + "\n" for entry in answers])

    async def _stream(self, lines: list[str]) -> None:
        if self.has_fault("garbage_line"):
            lines.insert(0, "<upstream hiccup>\n")
        if self.has_fault("short_answer"):
            self._end_early(lines)
        if self.has_fault("half_line"):
            last = lines.pop() if lines else '{"timestamp"}\n'
            lines.append(last[: len(last) // 2])
        try:
            for start in range(0, len(lines), _FLUSH_EVERY):
                self.write("".join(lines[start : start + _FLUSH_EVERY]))
                await self.flush()
        except StreamClosedError:
            return  # the client has read enough

    def _end_early(self, lines: list[str]) -> None:
        if lines:
            del lines[len(lines) // 2 :]
        elif self.fault is not None:
            self.fault.count += 1  # it is still to meet an answer


class ManifestHandler(ReplayHandler):
    """``GET /manifests/<VSN>``: what a node is and where; without a VSN, all of them."""

    kind = MANIFESTS

    def get(self, vsn: str) -> None:
        """Answer with the manifest."""
        manifest = self.state.catalogue.manifests.get(vsn)
        if not vsn:
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps(list(map(dict, self.state.catalogue.manifests.values()))))
        elif manifest is None:
            self.refuse(404, "not found")
        else:
            self.finish(dict(manifest))


class FileHandler(ReplayHandler):
    """Sends files."""

    async def send_object(self, found: StoredObject) -> None:
        """Answer with a file, or half of it."""
        data = await asyncio.to_thread(found.content)
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(len(data)))
        if self.has_fault("half_line"):
            self.write(data[: len(data) // 2])
            await self.flush()
            self.detach().close()
        else:
            self.finish(data)


class StorageHandler(FileHandler):
    """``GET /api/v1/data/<job>/<task>/<node>/<ns>-<filename>``: a file, for a password.

    HEAD asks for none.
    """

    kind = STORAGE

    async def get(self, path: str) -> None:
        """Answer with the file, or with a signed link to it."""
        if not _OBJECT_PATH.fullmatch(path):
            self.refuse(400, f"invalid path: {path!r}")
        elif self.request.headers.get("Authorization") != self.state.authorization():
            self.set_header("WWW-Authenticate", "Basic domain=storage.sagecontinuum.org")
            self.refuse(401, "not authorized")
        elif path.split("/")[2] in self.state.catalogue.forbidden_nodes:
            self.refuse(403, "permission denied")
        elif (found := self._arrived(path)) is None:
            self.refuse(404, "not found")
        else:
            filename = path.rpartition("/")[2].partition("-")[2]
            self.set_header("Content-Disposition", f"attachment; filename={filename}")
            await self._send_or_redirect(path, found)

    def head(self, path: str) -> None:
        """Say whether the file is there; to anyone, as SAGE's storage does."""
        if self._arrived(path) is None:
            self.refuse(404, "not found")

    def _arrived(self, path: str) -> StoredObject | None:
        self.state.publication.begin()
        found = self.state.catalogue.objects.get(path)
        has_arrived = found is not None and self.state.publication.has_arrived(found)
        return found if has_arrived else None

    async def _send_or_redirect(self, path: str, found: StoredObject) -> None:
        if not found.redirected:
            await self.send_object(found)
            return
        left = -1 if self.has_fault("expired_link") else LINK_SECONDS
        expires = str(int(time.time()) + left)
        query = urlencode({"expires": expires, "signature": self.state.signature(path, expires)})
        link = f"http://{self.state.signed_host}/signed/{quote(path)}?{query}"
        self.redirect(link, status=307)


class SignedHandler(FileHandler):
    """``GET /signed/<path>?…`` on the signed host: a file for whoever has the link in time."""

    kind = SIGNED_HOST

    async def get(self, path: str) -> None:
        """Answer with the file."""
        found = self.state.catalogue.objects.get(path)
        given, expires = (
            self.get_query_argument("signature", ""),
            self.get_query_argument("expires", ""),
        )
        if found is None or not hmac.compare_digest(given, self.state.signature(path, expires)):
            self.refuse(403, "signature does not match")
        elif float(expires) < time.time():
            self.refuse(403, "request has expired")
        else:
            await self.send_object(found)


class ForeignHandler(FileHandler):
    """Everything on the other host: open to all, and no business of SAGE's clients."""

    kind = OTHER_HOST

    async def get(self, path: str) -> None:
        """Answer with the file."""
        found = self.state.catalogue.foreign_objects.get(path)
        if found is None:
            self.refuse(404, "not found")
        else:
            await self.send_object(found)


class StatsHandler(RequestHandler):
    """``GET /stats``: what was asked so far, as JSON."""

    def initialize(self, state: ReplayState) -> None:
        """Take what the route holds."""
        self._state = state

    def get(self) -> None:
        """Answer with the counts."""
        ledger = self._state.ledger
        self.finish(
            {
                "requests": ledger.requests,
                "statuses": ledger.statuses,
                "authorization": ledger.authorization,
                "served": ledger.served,
                "published": sum(1 for _ in self._state.publication.visible()),
                "complete": self._state.publication.is_complete(),
            }
        )


class FaultsHandler(RequestHandler):
    """``POST /faults``: let something go wrong."""

    def initialize(self, state: ReplayState) -> None:
        """Take what the route holds."""
        self._state = state

    def post(self) -> None:
        """Add a fault."""
        try:
            self._state.faults.add(Fault.from_json(json.loads(self.request.body)))
        except (ValueError, TypeError, AttributeError) as error:
            raise HTTPError(400, str(error)) from error
        self.set_status(204)
