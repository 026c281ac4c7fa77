"""Serves a replay of SAGE: ``python -m demo.sage_replay --help``."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import click

from demo.dataset import Dataset
from demo.sage_replay.server import HOST, Replay


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of SAGE; a free one by default.",
)
@click.option(
    "--other-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the host that is not SAGE's; a free one by default.",
)
@click.option(
    "--signed-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the host that signed links lead to; a free one by default.",
)
@click.option("--address", default=HOST, show_default=True, help="Address of all three.")
@click.option("--name", help="Host name in the links; the address by default.")
@click.option(
    "--images",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Number of images to draw.",
)
@click.option(
    "--publish-seconds",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds over which they appear, from the first query on.",
)
@click.option(
    "--began",
    type=click.IntRange(0),
    default=0,
    help="Newest capture time, nanoseconds since 1970; now by default.",
)
@click.option(
    "--images-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of your own pictures to publish as well.",
)
@click.option("--user", default="sage", show_default=True)
@click.option("--password", default="replayed", show_default=True, envvar="SAGE_PASS")
def replay(
    port: int,
    other_port: int,
    signed_port: int,
    address: str,
    name: str | None,
    images: int,
    publish_seconds: float,
    began: int,
    images_dir: Path | None,
    user: str,
    password: str,
) -> None:
    """Serve SAGE's data API, storage and manifests with drawn images, until Ctrl-C."""
    server = Replay(
        user=user,
        password=password,
        port=port,
        other_port=other_port,
        signed_port=signed_port,
        address=address,
        name=name,
    )
    began = began or time.time_ns()
    dataset = Dataset(server.host, server.other_host, began, images, publish_seconds, images_dir)
    server.catalogue = dataset.catalogue()
    for name, value in server.environment().items():
        click.echo(f"export {name}={value}")
    asyncio.run(_serve(server))


async def _serve(server: Replay) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.serve(stop)


if __name__ == "__main__":
    replay()
