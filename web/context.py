"""What the pages are made from."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from weavloader.dlq.queue import DeadLetters
from web.access import Access
from web.image_service import ImageService
from web.snapshot import Monitor


@dataclass(frozen=True, slots=True)
class AppContext:
    """Built once per process and given to every handler.

    Attributes:
        pool: Runs what would block other requests.
        pictures: The same for pictures, so that none of them keeps a search waiting.
        access: Who may see dead letters.
    """

    pool: Executor
    pictures: Executor
    images: ImageService
    monitor: Monitor
    dead_letters: DeadLetters
    access: Access
