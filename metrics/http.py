"""Running a tornado application until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tornado.httpserver import HTTPServer
from tornado.web import Application

from weavloader.errors import ConfigError, Reason
from weavloader.shutdown import SIGNALS

logger = logging.getLogger(__name__)


async def serve_until_signal(application: Application, address: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way.

    Raises:
        ConfigError: The address cannot be bound.
    """
    server = HTTPServer(application, max_body_size=1024 * 1024, xheaders=False)
    try:
        server.listen(port, address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address}:{port}: {error.strerror}", reason=Reason.BAD_ADDRESS
        ) from error
    async with _signal() as asked:
        logger.info("listening on http://%s:%d", address, port)
        await asked.wait()
    server.stop()
    await server.close_all_connections()


@asynccontextmanager
async def _signal() -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set.

    By handlers of Python's: the loop's own would take the wakeup descriptor from
    :mod:`weavloader.shutdown`.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(*_: object) -> None:
        loop.call_soon_threadsafe(asked.set)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
