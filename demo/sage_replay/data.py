"""The replay's data API and manifests."""

from __future__ import annotations

import json
import time

from tornado.iostream import StreamClosedError

from demo.sage_replay.faults import DATA, MANIFESTS
from demo.sage_replay.query import QueryError, parse_query, select
from demo.sage_replay.state import ReplayHandler

_FLUSH_EVERY = 200


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
        if self.has_fault("half_line"):
            last = lines.pop() if lines else '{"timestamp"}\n'
            lines.append(last[: len(last) // 2])
        try:
            for start in range(0, len(lines), _FLUSH_EVERY):
                self.write("".join(lines[start : start + _FLUSH_EVERY]))
                await self.flush()
        except StreamClosedError:
            return  # the client has read enough


class ManifestHandler(ReplayHandler):
    """``GET /manifests/<VSN>``: what a node is and where."""

    kind = MANIFESTS

    def get(self, vsn: str) -> None:
        """Answer with the manifest."""
        manifest = self.state.catalogue.manifests.get(vsn)
        if manifest is None:
            self.refuse(404, "not found")
        else:
            self.finish(dict(manifest))
