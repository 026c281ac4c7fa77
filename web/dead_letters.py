"""The dead-letter pages: list, details, reprocessing and discarding, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from more_itertools import chunked
from tornado.web import HTTPError

from job_system import publishing
from weavloader.dlq.queue import DeadLetter, DeadLetterFilter, DeadLetters
from weavloader.errors import ConfigError, Reason
from weavloader.times import duration, parse_moment, rfc3339, utc_now
from web.arguments import Argument, argument, arguments_of, line, number, parsed, read
from web.handler import GuardedPage

PAGE_SIZE = 50
MAX_LENGTH = 256
MAX_PAGE = 100_000
_FILTERS = ("reason", "vsn", "older")
_A_TIME = "a time such as 1h, 7d or 2026-01-31"


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """Which dead letters a visitor asks for, as the address holds it; empty is not filtered."""

    reason: str = argument("", "Only those with this reason.", line())
    vsn: str = argument("", "Only those of this node.", line())
    older: str = argument("", "Only those older than this.", parsed(parse_moment, _A_TIME))
    page: int = argument(1, "Page of the list.", number(1, 1, MAX_PAGE, is_whole=True))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is filtered out."""
        return not (self.reason or self.vsn or self.older)

    def filter(self) -> DeadLetterFilter:
        """The same for the dead-letter queue."""
        return DeadLetterFilter(
            reason=self.reason or None,
            vsn=self.vsn or None,
            older_than=parse_moment(self.older) if self.older else None,
        )

    def address(self, **changes: str | int) -> str:
        """The address of the list with some of it changed; a change shows its first page."""
        given = {name: getattr(self, name) for name in (*_FILTERS, "page")}
        values = {**given, **({"page": 1} if changes else {}), **changes}
        arguments = {
            name: value for name, value in values.items() if value and (name, value) != ("page", 1)
        }
        return f"/dead-letters?{urlencode(arguments)}" if arguments else "/dead-letters"


ARGUMENTS = arguments_of(DeadLetterQuery)


def list_page(dead_letters: DeadLetters, query: DeadLetterQuery) -> dict[str, Any]:
    """A page of dead letters, newest first, with the counts to filter by.

    Raises:
        RedisError: Redis is unavailable.
    """
    wanted = query.filter()
    shown = dead_letters.page((query.page - 1) * PAGE_SIZE, PAGE_SIZE, wanted)
    return {
        "dead_letters": shown,
        "reprocessed": dead_letters.reprocessed_at([letter.task_id for letter in shown]),
        "count": dead_letters.count(wanted),
        "total": dead_letters.count(),
        "reasons": dead_letters.reasons(),
        "nodes": dead_letters.nodes(),
    }


def reprocess(dead_letters: DeadLetters, task_ids: Iterable[str]) -> str:
    """Queue the tasks of dead letters again, and return the outcome as a sentence.

    Raises:
        TransientError: The broker failed; what was not queued can be reprocessed at once.
    """
    found = map(dead_letters.get_many, chunked(task_ids, publishing.REPROCESS_BATCH))
    report = publishing.reprocess(chain.from_iterable(found), dead_letters)
    sentences = [f"{_amount(report.queued)} queued again."]
    if report.already_queued:
        sentences.append(f"{report.already_queued:,} skipped: already queued by an earlier run.")
    if report.unknown:
        sentences.append(f"{report.unknown:,} skipped: this version has no such task.")
    return " ".join(sentences)


def discard(dead_letters: DeadLetters, task_ids: Iterable[str]) -> str:
    """Delete dead letters permanently, and return how many as a sentence.

    Raises:
        RedisError: Redis is unavailable.
    """
    return f"{_amount(dead_letters.discard(task_ids))} discarded."


ACTIONS: dict[str, Callable[[DeadLetters, Iterable[str]], str]] = {
    "reprocess": reprocess,
    "discard": discard,
}


def parse_action(text: str) -> str:
    """The name of one of :data:`ACTIONS`.

    Raises:
        ConfigError: It is none.
    """
    if text not in ACTIONS:
        raise ConfigError("action: expected reprocess or discard", reason=Reason.BAD_ARGUMENT)
    return text


_ACTION = Argument(
    "action",
    "What to do, once it is confirmed.",
    {"type": "string", "enum": [*ACTIONS]},
    lambda name, texts: parse_action((texts or [""])[-1]),
)


class DeadLetterHandler(GuardedPage):
    """What pages of dead letters have in common."""

    async def dead_letter(self, task_id: str) -> DeadLetter:
        """The dead letter of a task id, which is not trusted.

        Raises:
            HTTPError: There is none.
        """
        letter = await self.on_thread(self.context.dead_letters.get, task_id[:MAX_LENGTH])
        if letter is None:
            message = "There is no such dead letter; its image may have been stored since"
            raise HTTPError(404, reason=message)
        return letter


class DeadLettersPage(DeadLetterHandler):
    """``/dead-letters``: the list, newest first, with its filters."""

    arguments = ARGUMENTS

    async def get(self) -> None:
        """Write the page."""
        query = read(DeadLetterQuery, self.get_query_arguments)
        self.render(
            "dead_letters.html",
            section="dead-letters",
            json_address="/api/dlq" + query.address(page=query.page).removeprefix("/dead-letters"),
            query=query,
            message=self.take_message(),
            now=utc_now(),
            age=age,
            address_of=letter_address,
            text=error_text,
            page_size=PAGE_SIZE,
            **await self.on_thread(list_page, self.context.dead_letters, query),
        )


class DeadLettersAction(DeadLetterHandler):
    """``/dead-letters/all``: an action on all that a filter matches, once it is confirmed."""

    arguments: ClassVar[Mapping[str, Argument]] = {"action": _ACTION, **ARGUMENTS}

    async def get(self) -> None:
        """Ask for confirmation."""
        asked = read(DeadLetterQuery, self.get_query_arguments)
        # The visitor has not seen what fails from now on, so it is not included.
        query = replace(asked, older=asked.older or utc_now().isoformat())
        self.render(
            "confirm.html",
            section="dead-letters",
            asked=asked,
            query=query,
            action=_ACTION.read("action", self.get_query_arguments("action")),
            back=asked.address(),
            count=await self.on_thread(self.context.dead_letters.count, query.filter()),
        )

    async def post(self) -> None:
        """Carry it out."""
        query = read(DeadLetterQuery, self.get_body_arguments)
        act = ACTIONS[parse_action(self.get_body_argument("action", ""))]
        dead_letters = self.context.dead_letters
        self.set_message(await self.on_thread(act, dead_letters, dead_letters.ids(query.filter())))
        self.redirect("/dead-letters")


class DeadLetterPage(DeadLetterHandler):
    """``/dead-letters/letter/<id>``: one dead letter with its details and actions."""

    async def get(self, task_id: str) -> None:
        """Write the page."""
        letter = await self.dead_letter(task_id)
        reprocessed = await self.on_thread(
            self.context.dead_letters.reprocessed_at, [letter.task_id]
        )
        self.render(
            "dead_letter.html",
            section="dead-letters",
            json_address=f"/api/dlq/{quote(letter.task_id, safe='')}",
            letter=letter,
            names=letter.image_names(),
            task_message=json.dumps({"args": letter.args, "kwargs": letter.kwargs}, indent=2),
            reprocessed=reprocessed.get(letter.task_id),
            message=self.take_message(),
            now=utc_now(),
            age=age,
            address_of=letter_address,
            text=error_text(letter),
        )

    async def post(self, task_id: str) -> None:
        """Reprocess or discard it."""
        letter = await self.dead_letter(task_id)
        action = parse_action(self.get_body_argument("action", ""))
        dead_letters = self.context.dead_letters
        self.set_message(await self.on_thread(ACTIONS[action], dead_letters, [letter.task_id]))
        self.redirect("/dead-letters" if action == "discard" else self.request.path)


class DeadLettersApi(DeadLetterHandler):
    """``/api/dlq``: the list of dead letters as JSON, 50 a page, newest first."""

    arguments = ARGUMENTS
    answers: ClassVar[Mapping[str, str]] = {"application/json": "DeadLetters"}

    async def get(self) -> None:
        """Write the list."""
        query = read(DeadLetterQuery, self.get_query_arguments)
        found = await self.on_thread(list_page, self.context.dead_letters, query)
        reprocessed = {task_id: rfc3339(at) for task_id, at in found["reprocessed"].items()}
        dead_letters = [
            {**as_json(letter), "reprocessed_at": reprocessed.get(letter.task_id)}
            for letter in found["dead_letters"]
        ]
        self.write({**found, "dead_letters": dead_letters, "reprocessed": len(reprocessed)})


class DeadLetterApi(DeadLetterHandler):
    """``/api/dlq/<id>``: one dead letter as JSON, by the id of its task."""

    answers: ClassVar[Mapping[str, str]] = {"application/json": "DeadLetter"}

    async def get(self, task_id: str) -> None:
        """Write the dead letter."""
        self.write(as_json(await self.dead_letter(task_id)))


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as ``redis-cli GET dlq:<id>`` gives it, with its ``remedy``."""
    return {**asdict(letter), "remedy": letter.remedy}


def error_text(letter: DeadLetter) -> str:
    """The error message without the reason, which is shown beside it."""
    return letter.exc_message.removeprefix(f"{letter.reason}: ") or letter.exc_type


def letter_address(letter: DeadLetter) -> str:
    """The page of a dead letter, whatever characters its id has."""
    return f"/dead-letters/letter/{quote(letter.task_id, safe='')}"


def age(moment: str | datetime, now: datetime) -> str:
    """How long ago something was, such as ``3h 5m``."""
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return duration((now - then).total_seconds())


def _amount(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"
