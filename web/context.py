"""What the pages are made from."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from weavloader.dlq.queue import DeadLetters
from web.access import Access
from web.image_service import Gallery
from web.monitor import Monitor


@dataclass(frozen=True, slots=True)
class Site:
    """Built once in a process; every handler is given it.

    Attributes:
        pool: Runs what would hold up other visitors.
        access: Who may see dead letters.
    """

    pool: Executor
    gallery: Gallery
    monitor: Monitor
    letters: DeadLetters
    access: Access
