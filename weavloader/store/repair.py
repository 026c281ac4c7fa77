"""The repair of stored objects that some search does not find."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from weavloader.errors import PermanentError
from weavloader.store.base import Store

RECHECK_SECONDS = 2.0

logger = logging.getLogger(__name__)


def find_unsearchable(
    store: Store, links: Iterable[str], sleep: Callable[[float], None] = time.sleep
) -> dict[str, str]:
    """The stored images among ``links`` that some search does not find, each with its object's id.

    They are looked up twice: an object that is just being written may not be found yet, and to
    write it again could put back its earlier version.

    Args:
        sleep: Waits between the two.

    Raises:
        TransientError: The store failed.
    """
    found = store.unsearchable(links)
    if not found:
        return {}
    sleep(RECHECK_SECONDS)
    return store.unsearchable(found)


def repair(store: Store, unsearchable: Mapping[str, str]) -> dict[str, str]:
    """Write objects again; returns those that some search still does not find.

    Those that the store refuses for good are logged and left.

    Args:
        unsearchable: The ids of the objects by link.

    Raises:
        TransientError: The store failed.
    """
    if not unsearchable:
        return {}
    try:
        store.rewrite(unsearchable.values())
    except PermanentError as error:
        count = len(unsearchable)
        logger.warning("some of %d objects were not written again: %s", count, error)
    return store.unsearchable(unsearchable)
