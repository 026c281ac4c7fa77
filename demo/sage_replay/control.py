"""The replay's own two pages, for whoever watches or tests with it."""

from __future__ import annotations

import json

from tornado.web import HTTPError, RequestHandler

from demo.sage_replay.faults import Fault
from demo.sage_replay.state import ReplayState


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
