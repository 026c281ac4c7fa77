"""Fixtures that tests of several kinds share: real servers on free ports; and when they skip."""

import signal

from tests.support.audited_stream import scene
from tests.support.image_world import world
from tests.support.job_system_fixture import job_system
from tests.support.log_fixture import own_log
from tests.support.message_consumer import consumer
from tests.support.metrics_fixture import unshared_metrics
from tests.support.missing_parts import (
    pytest_fixture_setup,
    pytest_pyfunc_call,
    pytest_terminal_summary,
)
from tests.support.polled_stream import bench
from tests.support.redis_fixture import (
    known_clock,
    own_redis,
    redis_of_bytes,
    redis_server,
    redis_url,
)
from tests.support.triton_fixture import triton, triton_client
from tests.support.weaviate_fixture import weaviate_server, weaviate_settings

__all__ = [
    "bench",
    "consumer",
    "job_system",
    "known_clock",
    "own_log",
    "own_redis",
    "pytest_fixture_setup",
    "pytest_pyfunc_call",
    "pytest_terminal_summary",
    "redis_of_bytes",
    "redis_server",
    "redis_url",
    "scene",
    "triton",
    "triton_client",
    "unshared_metrics",
    "weaviate_server",
    "weaviate_settings",
    "world",
]


def pytest_configure() -> None:
    """Undo what a shell does to its background jobs: what tests start would ignore Ctrl-C too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
