"""Dead letters: by reason and node, one whole, and a way to retry or drop them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

from tornado.web import HTTPError

from weavloader.dlq.queue import DeadLetter
from web.dead_letters.query import (
    ACTIONS,
    LONGEST,
    PAGE_SIZE,
    age,
    listed,
    parse_action,
    parse_letter_query,
    words,
)
from web.handler import PageHandler
from web.view_models import iso

_DONE = "weavloader_done"


class LettersHandler(PageHandler):
    """What only those may use who may use Flower."""

    def prepare(self) -> None:
        """Ask for a name and password where they are needed."""
        self.set_header("Cache-Control", "no-store")
        if not self.site.access.allows(self.request.host_name, self.request.headers):
            self.set_header("WWW-Authenticate", 'Basic realm="Weavloader", charset="UTF-8"')
            self.explain(401, "This page needs the name and password that Flower has")

    async def letter(self, task_id: str) -> DeadLetter:
        """The letter of a task id, which is not trusted.

        Raises:
            HTTPError: There is none.
        """
        letter = await self.on_thread(self.site.letters.get, task_id[:LONGEST])
        if letter is None:
            raise HTTPError(404, reason="There is no such dead letter: it may have been settled")
        return letter

    def say(self, words: str) -> None:
        """Show a sentence at the head of the next page."""
        self.set_signed_cookie(_DONE, words, expires_days=None, httponly=True, samesite="Strict")

    def said(self) -> str:
        """The sentence to show, once."""
        words = self.get_signed_cookie(_DONE)
        self.clear_cookie(_DONE)
        return words.decode() if words else ""


class LettersPage(LettersHandler):
    """``/dead-letters``: the list, newest first, and what it can be narrowed to."""

    async def get(self) -> None:
        """Write the page."""
        query = parse_letter_query(self.get_query_argument)
        self.render(
            "letters.html",
            section="letters",
            query=query,
            said=self.said(),
            now=datetime.now(UTC),
            age=age,
            words=words,
            page_size=PAGE_SIZE,
            **await self.on_thread(listed, self.site.letters, query),
        )


class LettersAction(LettersHandler):
    """``/dead-letters/all``: what a filter means, to be confirmed, then retried or dropped."""

    async def get(self) -> None:
        """Ask for confirmation."""
        asked = parse_letter_query(self.get_query_argument)
        # What fails from now on was not seen, and is not meant.
        query = replace(asked, older=asked.older or datetime.now(UTC).isoformat())
        self.render(
            "confirm.html",
            section="letters",
            asked=asked,
            query=query,
            action=parse_action(self.get_query_argument("action", "")),
            back=asked.address(),
            count=await self.on_thread(self.site.letters.count, query.filter()),
        )

    async def post(self) -> None:
        """Do it."""
        query = parse_letter_query(self.get_body_argument)
        act = ACTIONS[parse_action(self.get_body_argument("action", ""))]
        self.say(
            await self.on_thread(act, self.site.letters, self.site.letters.ids(query.filter()))
        )
        self.redirect("/dead-letters")


class LetterPage(LettersHandler):
    """``/dead-letters/<id>``: one letter, whole; retried or dropped from here."""

    async def get(self, task_id: str) -> None:
        """Write the page."""
        letter = await self.letter(task_id)
        retried = await self.on_thread(self.site.letters.retried_at, [letter.task_id])
        self.render(
            "letter.html",
            section="letters",
            letter=letter,
            names=letter.image_names(),
            message=json.dumps({"args": letter.args, "kwargs": letter.kwargs}, indent=2),
            retried=retried.get(letter.task_id),
            said=self.said(),
            now=datetime.now(UTC),
            age=age,
            words=words,
        )

    async def post(self, task_id: str) -> None:
        """Retry or drop it."""
        letter = await self.letter(task_id)
        action = parse_action(self.get_body_argument("action", ""))
        self.say(await self.on_thread(ACTIONS[action], self.site.letters, [letter.task_id]))
        self.redirect("/dead-letters" if action == "drop" else self.request.path)


class LettersApi(LettersHandler):
    """``/api/dlq``: the list as JSON."""

    async def get(self) -> None:
        """Write it."""
        query = parse_letter_query(self.get_query_argument)
        found = await self.on_thread(listed, self.site.letters, query)
        retried = {task_id: iso(moment) for task_id, moment in found["retried"].items()}
        letters = [
            {**asdict(letter), "retried_at": retried.get(letter.task_id)}
            for letter in found["letters"]
        ]
        self.write({**found, "letters": letters, "retried": len(retried)})


class LetterApi(LettersHandler):
    """``/api/dlq/<id>``: one letter as JSON, as ``redis-cli GET`` gives it."""

    async def get(self, task_id: str) -> None:
        """Write it."""
        letter = await self.letter(task_id)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.write(letter.to_json())
