"""The runbook, to which every alert links, as a page: ``/runbook#<alert in lower case>``."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from web.handler import PageHandler

RUNBOOK = Path(__file__).parents[1] / "docs" / "runbook.md"
# To a document that this server does not have.
_LINK_ELSEWHERE = re.compile(r"\[([^\]]+)\]\((?!#|\w+:)([\w-]+\.md)[^)]*\)")


class RunbookPage(PageHandler):
    """``/runbook``: what each alert means, how to confirm it, and what to do."""

    def get(self) -> None:
        """Write the page."""
        self.render("runbook.html", body=runbook_html())


@cache
def runbook_html() -> str:
    """HTML of ``docs/runbook.md``; its headings have the anchors that they have on GitHub.

    Links to other documents, which are not served, become the names of these.
    """
    text = _LINK_ELSEWHERE.sub(_name_document, RUNBOOK.read_text())
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", following.content.lower().replace(" ", "-"))
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def _name_document(link: re.Match[str]) -> str:
    text, path = link.groups()
    return f"`docs/{path}`" if text == path else f"{text} (`docs/{path}`)"
