"""Reading a slice of the past until the data API's answers agree.

The API ends an answer after an error as if it were whole: it looks the same as a shorter one. Polls
read the same range again and again; a reader that does not come back asks twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.stream.records import RejectedRecord, parse_record, seen_key

MAX_ANSWERS = 6


def agreed_items(
    ask: Callable[[], Iterable[object]], is_open: bool = False
) -> Iterator[ImageJob | RejectedRecord]:
    """Yield each image and each rejected record of a slice once, until an answer has no other.

    Args:
        ask: Asks for the records of the slice.
        is_open: Whether records are still added to it, so that no two answers need agree.

    Raises:
        TransientError: The API failed, or of many answers no last one held all that was listed.
    """
    known: set[bytes] = set()
    for number in range(MAX_ANSWERS):
        before, listed = len(known), set[bytes]()
        for item in map(parse_record, ask()):
            listed.add(key := seen_key(item))
            if key not in known:
                known.add(key)
                yield item
        if is_open or (number and len(listed) == len(known) == before):
            return
    message = f"SAGE data API: {MAX_ANSWERS} answers about the same range differ"
    raise TransientError(message, reason=Reason.SAGE_CUT)
