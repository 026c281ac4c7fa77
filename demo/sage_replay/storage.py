"""The replay's storage, and another host that its signed links lead to."""

from __future__ import annotations

import asyncio
import hmac
import re
from urllib.parse import quote

from demo.sage_replay.catalogue import StoredObject
from demo.sage_replay.faults import OTHER_HOST, STORAGE
from demo.sage_replay.state import ReplayHandler

_OBJECT_PATH = re.compile(r"[^/]+/[^/]+/[^/]+/\d+-.+")


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
    """``GET /api/v1/data/<job>/<task>/<node>/<ns>-<filename>``: a file, for a password."""

    kind = STORAGE

    async def get(self, path: str) -> None:
        """Answer with the file, or with a signed link to it."""
        if not _OBJECT_PATH.fullmatch(path):
            self.refuse(400, f"invalid path: {path!r}")
        elif self.request.headers.get("Authorization") != self.state.authorization():
            self.set_header("WWW-Authenticate", "Basic domain=storage.sagecontinuum.org")
            self.refuse(401, "not authorized")
        elif (found := self.state.catalogue.objects.get(path)) is None:
            self.refuse(404, "not found")
        else:
            filename = path.rpartition("/")[2].partition("-")[2]
            self.set_header("Content-Disposition", f"attachment; filename={filename}")
            await self._send_or_redirect(path, found)

    async def _send_or_redirect(self, path: str, found: StoredObject) -> None:
        if not found.redirected:
            await self.send_object(found)
            return
        link = f"http://{self.state.other_host}/signed/{quote(path)}"
        self.redirect(f"{link}?signature={self.state.signature(path)}", status=307)


class SignedHandler(FileHandler):
    """``GET /signed/<path>?signature=…`` on the other host: a file for whoever has the link."""

    kind = OTHER_HOST

    async def get(self, path: str) -> None:
        """Answer with the file."""
        found = self.state.catalogue.objects.get(path)
        given = self.get_query_argument("signature", "")
        if found is None or not hmac.compare_digest(given, self.state.signature(path)):
            self.refuse(403, "signature does not match")
        else:
            await self.send_object(found)


class ForeignHandler(FileHandler):
    """Everything else on the other host: open to all, and no business of SAGE's clients."""

    kind = OTHER_HOST

    async def get(self, path: str) -> None:
        """Answer with the file."""
        found = self.state.catalogue.foreign_objects.get(path)
        if found is None:
            self.refuse(404, "not found")
        else:
            await self.send_object(found)
