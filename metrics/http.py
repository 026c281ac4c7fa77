"""Running a tornado application until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

from tornado.httpserver import HTTPServer
from tornado.web import Application

from weavloader.errors import ConfigError, Reason

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
    logger.info("listening on http://%s:%d", address, port)
    await _signal()
    server.stop()
    await server.close_all_connections()


async def _signal() -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
