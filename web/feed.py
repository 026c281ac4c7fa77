"""An Atom feed (RFC 4287) of any search: its newest hits, for whoever follows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from typing import ClassVar
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5
from xml.etree.ElementTree import Element, SubElement, tostring

from weavloader.provenance import CAPTION, Provenance
from weavloader.store.base import SearchResult
from weavloader.times import rfc3339
from web.arguments import Argument, invalid
from web.captions import Caption
from web.handler import PageHandler
from web.query import ARGUMENTS, parse_strictly
from web.view_models import known

ATOM = "http://www.w3.org/2005/Atom"
ATOM_TYPE = "application/atom+xml"
# A search ranks the best 1,000 of all images; in a large store a new one would seldom be among
# them. So a feed without a beginning looks at what was captured of late.
DEFAULT_SINCE = "30d"
MAX_AGE = 60  # seconds that a reader, or a proxy, may use an answer again
# They choose a page of the results; a feed has the newest.
_OF_PAGES = ("page", "sort", "fold", "weak")
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONG_AGO = datetime.fromtimestamp(0, UTC)


class FeedPage(PageHandler):
    """``/search.atom``: the newest hits of a search, with the arguments of ``/api/search``."""

    arguments: ClassVar[Mapping[str, Argument]] = {
        name: each for name, each in ARGUMENTS.items() if name not in _OF_PAGES
    }
    answers: ClassVar[Mapping[str, str]] = {ATOM_TYPE: ""}
    explains_as = "text/plain"

    async def get(self) -> None:
        """Write the feed; Tornado answers 304 to a reader that has it, by its ``ETag``."""
        given = self.all_arguments()
        for name in _OF_PAGES:
            if name in given:
                raise invalid(name, "no such choice: a feed has the newest matches")
        query = parse_strictly(given)
        # As given: `yesterday` in a text is another day tomorrow, and the feed the same.
        arguments = urlencode([(name, each) for name in sorted(given) for each in given[name]])
        recent = replace(query, sort="newest")
        if query.is_ranked and not (query.since or query.until):
            recent = replace(recent, since=DEFAULT_SINCE)
        found = await self.on_thread(self.context.searches.search, recent)
        self.set_header("Content-Type", f"{ATOM_TYPE}; charset=utf-8")
        self.set_header("Cache-Control", f"max-age={MAX_AGE}")
        self.finish(feed(query.words, arguments, found.results, self.origin))

    def explain(self, status_code: int, message: str) -> None:
        """Answer with a message as plain text, since no person looks at the page."""
        self.set_status(status_code)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{message}\n")


def feed(words: str, arguments: str, results: Sequence[SearchResult], origin: str) -> bytes:
    """The feed of a search.

    Ids depend on the search and on the images alone, so that a reader knows them again under
    another address of the same pages.

    Args:
        words: What is searched for, for people.
        arguments: The same as addresses have it.
        results: Newest first.
        origin: What links begin with, such as ``https://weavloader.example.org``.
    """
    root = Element("feed", xmlns=ATOM)
    own, page = (f"{path}?{arguments}".rstrip("?") for path in ("/search.atom", "/"))
    _add(root, "id", uuid5(NAMESPACE_URL, f"weavloader:{own}").urn)
    _add(root, "title", f"Weavloader: {words}")
    _add(root, "updated", rfc3339(max(map(_updated, results), default=_LONG_AGO)))
    SubElement(_add(root, "author"), "name").text = "Weavloader"
    SubElement(root, "link", rel="self", type=ATOM_TYPE, href=origin + own)
    SubElement(root, "link", rel="alternate", type="text/html", href=origin + page)
    for result in results:
        _add_entry(root, result, origin)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _add_entry(root: Element, result: SearchResult, origin: str) -> None:
    entry, caption = _add(root, "entry"), Caption.read(result.text.get("caption", ""))
    node = known(result.text.get("vsn", ""))
    page = f"{origin}/image/{result.id}"
    _add(entry, "id", f"urn:uuid:{result.id}")
    _add(entry, "title", caption.summary or "Image without a caption")
    _add(entry, "updated", rfc3339(_updated(result)))
    if result.captured_at is not None:
        _add(entry, "published", rfc3339(result.captured_at))
    SubElement(entry, "link", rel="alternate", type="text/html", href=page)
    if node:
        SubElement(entry, "category", term=_plain(node), label=_plain(f"Node {node}"))
    picture = f'<img src="{escape(origin)}/thumbnail/{result.id}.jpg" alt="">'
    shown = f'<p><a href="{escape(page)}">{picture}</a></p><p>{escape(caption.description)}</p>'
    _add(entry, "content", shown).set("type", "html")


def _add(parent: Element, name: str, text: str | None = None) -> Element:
    element = SubElement(parent, name)
    element.text = None if text is None else _plain(text)
    return element


def _plain(text: str) -> str:
    """Without the characters that no XML may hold, escaped or not."""
    return _NO_XML.sub(" ", text)


def _updated(result: SearchResult) -> datetime:
    """When the image was described, which is when it was stored; else when it was captured."""
    made_at = result.provenance.get(CAPTION, Provenance()).made_at
    return made_at or result.captured_at or _LONG_AGO
