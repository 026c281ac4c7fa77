"""The scheduler of Celery beat: redbeat's, which tells its name while it is the active one."""

from __future__ import annotations

import socket
from typing import Any

from redbeat.schedulers import RedBeatScheduler, get_redis

from weavloader import redis_keys


class Scheduler(RedBeatScheduler):
    """Of several, the one that holds the lock; beat has no name of its own, unlike a worker."""

    def tick(self, *args: Any, **options: Any) -> float:
        """Publish what is due; seconds until the next tick."""
        wait: float = super().tick(*args, **options)  # raises once another one holds the lock
        name = f"scheduler@{socket.gethostname()}"
        get_redis(self.app).set(redis_keys.ACTIVE_SCHEDULER, name, ex=int(self.lock_timeout))
        return wait
