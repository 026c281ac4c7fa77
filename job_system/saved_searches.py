"""The task that sends the matches of saved searches, every minute, in the cleaner.

No processor waits for a receiver, and a receiver that is away holds up none but its own matches.
"""

from __future__ import annotations

import logging
from functools import cache, partial

from redis.exceptions import RedisError

from client import connect_embedder, connect_receivers
from job_system.app import celery_app
from job_system.celery_config import TASKS
from job_system.dependencies import redis_client, store
from metrics import metrics
from weavloader.errors import TransientError
from weavloader.redis_connection import RedisClient
from weavloader.saved.deliveries import Deliveries
from weavloader.saved.searches import DeliveryOutcome, SavedSearches
from weavloader.saved.upkeep import Upkeep
from weavloader.search import EMBEDDING_TIMEOUT
from weavloader.settings import Settings, get_settings

logger = logging.getLogger(__name__)


@celery_app.task(name=TASKS + "deliver_matches")
def deliver_matches() -> int:
    """Bring saved searches up to date and send what is due; return how many deliveries arrived.

    What fails is left to the next run.
    """
    redis, settings = redis_client(), get_settings()
    try:
        if not SavedSearches(redis).all():
            return 0
        _update(redis, settings)
        outcomes = _deliveries().send_due()
    except (RedisError, TransientError) as error:
        logger.warning("matches of saved searches wait: %s", error)
        return 0
    for outcome, amount in outcomes.items():
        metrics.count_delivery(outcome, amount)
    return outcomes[DeliveryOutcome.DELIVERED]


def _update(redis: RedisClient, settings: Settings) -> None:
    embedders = partial(connect_embedder, settings, timeout=EMBEDDING_TIMEOUT)
    try:
        new = Upkeep(redis, store(), embedders, settings.embedding_models).run()
    except TransientError as error:
        logger.warning("saved searches are brought up to date later: %s", error)
        return
    if new:
        metrics.count_matches(new)


@cache
def _deliveries() -> Deliveries:
    redis, settings = redis_client(), get_settings()
    # The store is opened once there is something to send.
    sender, existing = connect_receivers(settings), lambda links: store().existing(links)
    return Deliveries(redis, sender, existing, f"{settings.public_url}/image/".__add__)
