"""Metrics of all roles: ``from metrics import metrics`` and count.

Importing reads no setting and writes nothing. At the first value each process begins to keep
its values in files that the metrics server adds up, so what a worker's children count is seen,
and outlives them.
"""

from __future__ import annotations

import atexit
import logging
import os

from prometheus_client import CollectorRegistry
from prometheus_client.values import close_all_multiprocess_files

from metrics.metrics import Metrics
from metrics.multiprocess import forget_process, share_values
from weavloader.errors import ConfigError
from weavloader.settings import get_settings

__all__ = ["Metrics", "metrics"]


def _share() -> None:
    try:
        directory = get_settings().prometheus_multiproc_dir
    except ConfigError:
        return  # whoever starts a role reads the settings first, and reports this
    try:
        share_values(directory)
    except ConfigError as error:
        logging.getLogger(__name__).warning("metrics stay in this process: %s", error)
        return
    atexit.register(_end_process, directory)


def _end_process(directory: str) -> None:
    forget_process(directory, os.getpid())
    # Python complains about files that are left open where a library turns its warnings on.
    close_all_multiprocess_files()  # type: ignore[no-untyped-call]


metrics = Metrics(CollectorRegistry(), before_first_use=_share)
