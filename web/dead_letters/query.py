"""Which dead letters a visitor means, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from job_system.resubmission import BATCH, Resubmission, resubmit
from weavloader.batches import batched
from weavloader.dlq.queue import DeadLetter, DeadLetters, LetterFilter
from weavloader.errors import ConfigError, Reason
from weavloader.search import parse_moment
from web.view_models import duration

PAGE_SIZE = 50
LONGEST = 256
LAST_PAGE = 100_000
_NAMES = ("reason", "vsn", "older")


@dataclass(frozen=True, slots=True)
class LetterQuery:
    """Which letters a visitor means, as the address holds it.

    Attributes:
        reason: Only letters of this reason; empty for all.
        vsn: Only letters of this node; empty for all.
        older: Only letters older than this, such as ``1h``; empty for all.
        page: From 1.
    """

    reason: str = ""
    vsn: str = ""
    older: str = ""
    page: int = 1

    @property
    def is_empty(self) -> bool:
        """Whether all letters are meant."""
        return not (self.reason or self.vsn or self.older)

    def filter(self) -> LetterFilter:
        """The same for the dead-letter queue."""
        return LetterFilter(
            reason=self.reason or None,
            vsn=self.vsn or None,
            older_than=parse_moment(self.older) if self.older else None,
        )

    def address(self, **changes: str | int) -> str:
        """The address of the list with some of it changed; a change shows its first page."""
        given = {name: getattr(self, name) for name in (*_NAMES, "page")}
        told = {**given, **({"page": 1} if changes else {}), **changes}
        text = {
            name: value for name, value in told.items() if value and (name, value) != ("page", 1)
        }
        return f"/dead-letters?{urlencode(text)}" if text else "/dead-letters"


def parse_letter_query(argument: Callable[[str, str], str]) -> LetterQuery:
    """Read which letters are meant from a request's arguments.

    Raises:
        ConfigError: An argument is wrong; the message says which and how.
    """
    given = {name: argument(name, "").strip()[:LONGEST] for name in _NAMES}
    page = argument("page", "1")
    if not (page.isdecimal() and 1 <= int(page[:9]) <= LAST_PAGE):
        raise ConfigError("page: expected a number from 1", reason=Reason.BAD_ARGUMENT)
    query = LetterQuery(page=int(page), **given)
    try:
        query.filter()
    except ConfigError:
        message = "older: expected a time such as 1h, 7d or 2026-01-31"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT) from None
    return query


def listed(letters: DeadLetters, query: LetterQuery) -> dict[str, Any]:
    """A page of letters, newest first, with what the list can be narrowed to.

    Raises:
        RedisError: Redis did not answer.
    """
    wanted = query.filter()
    shown = letters.page((query.page - 1) * PAGE_SIZE, PAGE_SIZE, wanted)
    return {
        "letters": shown,
        "retried": letters.retried_at([letter.task_id for letter in shown]),
        "count": letters.count(wanted),
        "total": letters.count(),
        "reasons": letters.reasons(),
        "nodes": letters.nodes(),
    }


def retry(letters: DeadLetters, task_ids: Iterable[str]) -> str:
    """Put letters back on their queue, and say how that went.

    Raises:
        TransientError: The broker failed; those not put back can be tried again at once.
    """
    done = Resubmission()
    for batch in batched(task_ids, BATCH):
        done += resubmit(letters.get_many(batch), letters)
    return _said(done)


def drop(letters: DeadLetters, task_ids: Iterable[str]) -> str:
    """Delete letters for good, and say how many.

    Raises:
        RedisError: Redis did not answer.
    """
    return f"{_amount(letters.drop(task_ids))} dropped."


ACTIONS: dict[str, Callable[[DeadLetters, Iterable[str]], str]] = {"retry": retry, "drop": drop}


def parse_action(text: str) -> str:
    """The name of one of :data:`ACTIONS`.

    Raises:
        ConfigError: It is none.
    """
    if text not in ACTIONS:
        raise ConfigError("action: expected retry or drop", reason=Reason.BAD_ARGUMENT)
    return text


def words(letter: DeadLetter) -> str:
    """What happened, without the reason that stands beside it."""
    return letter.exc_message.removeprefix(f"{letter.reason}: ") or letter.exc_type


def age(moment: str | datetime, now: datetime) -> str:
    """How long ago something was, to its largest unit: ``3 h``."""
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return duration((now - then).total_seconds())


def _said(done: Resubmission) -> str:
    parts = [f"{_amount(len(done.submitted))} on the queue again."]
    if done.already:
        parts.append(f"{len(done.already):,} already on their way since an earlier retry.")
    if done.unknown:
        parts.append(f"{len(done.unknown):,} left: this version has no such task.")
    return " ".join(parts)


def _amount(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"
