"""Captions as models write them: a sentence, labels, or pages of Markdown; read as plain text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal, Self

# How captions of the preview models begin; their package runs in Triton and is not installed here.
PREVIEW_PREFIX = "Preview caption:"
MAX_SUMMARY = 240  # characters; three lines of a card
MAX_LEAD = 600
MAX_KEYWORDS = 40
MAX_EXAMPLES = 5
MIN_SHARE, MAX_SHARE = 0.02, 0.4  # of the captions that say what an example searches for
_WORD = re.compile(r"[a-zà-öø-ÿ'-]+")
# What captions say of any picture.
_COMMON = frozenset(
    "the and with that this there are was were has have its which from into over under some"
    " image picture photo photograph scene view shows show showing seen see appears visible"
    " several many other left right top bottom middle center centre side front back background"
    " foreground overall here camera caption description detailed taken mostly near between"
    " along while where can could likely possibly suggests suggesting also more than very not"
    " one two three four edge edges area areas lower upper part around above below".split()
)
Kind = Literal["text", "heading", "list", "numbers"]
_LABELLED = re.compile(
    r"(?:DESCRIPTION: )?(?P<description>.*?)(?: LABELS: (?P<labels>.*))?", re.DOTALL
)
_STARTS: dict[Kind, re.Pattern[str]] = {
    "heading": re.compile(r"#{1,6}\s+(.*?)\s*#*$"),
    "list": re.compile(r"[-*+•]\s+(.*)$"),
    "numbers": re.compile(r"\d{1,3}[.)]\s+(.*)$"),
}
_RULE = re.compile(r"(?:[-*_=]\s*){3,}|[|:\s-]*\|[|:\s-]*|```.*|~~~.*")
_LINKED = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_STRONG = re.compile(r"(\*\*|__|~~|`)(?=\S)([^*_~`]+)\1")
_EMPHASIS = re.compile(r"(?<![\w*_])([*_])(?=\S)([^*_]+)\1(?![\w*_])")


@dataclass(frozen=True, slots=True)
class Block:
    """Part of a caption: a paragraph or a heading, of one line, or a list, of several."""

    kind: Kind
    lines: tuple[str, ...]

    @property
    def length(self) -> int:
        """Its characters."""
        return sum(map(len, self.lines))


@dataclass(frozen=True, slots=True)
class Caption:
    """A parsed caption.

    Attributes:
        description: The caption without labels, as the model wrote it.
        keywords: Its labels; empty where the model gives none.
        is_preview: Whether a preview model wrote it, which describes little but colours.
    """

    description: str
    keywords: tuple[str, ...] = ()
    is_preview: bool = False

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse ``Preview caption: …`` or ``DESCRIPTION: … LABELS: a, b``."""
        match = _LABELLED.fullmatch(text.strip())
        description, labels = text, ""
        if match:
            description, labels = match["description"], match["labels"] or ""
        named = dict.fromkeys(filter(None, (label.strip() for label in labels.split(","))))
        is_preview = description.startswith(PREVIEW_PREFIX)
        plain = description.removeprefix(PREVIEW_PREFIX).strip()
        return cls(plain, tuple(named)[:MAX_KEYWORDS], is_preview)

    @property
    def summary(self) -> str:
        """The beginning as plain text on one line, for cards and titles."""
        lines = (line for block in blocks(self.description) for line in block.lines)
        return shortened(" ".join(" ".join(lines).split()), MAX_SUMMARY)

    @property
    def lead(self) -> list[Block]:
        """The blocks that are shown at once."""
        shown, length = list[Block](), 0
        for block in blocks(self.description):
            length += block.length
            if length > MAX_LEAD and shown:
                break
            shown.append(block)
        if shown and shown[0].length > MAX_LEAD:
            return [Block(shown[0].kind, tuple(_first_lines(shown[0].lines)))]
        return shown

    @property
    def rest(self) -> list[Block]:
        """All blocks, where :attr:`lead` leaves some out; else none."""
        whole = blocks(self.description)
        return [] if whole == self.lead else whole


def blocks(text: str) -> list[Block]:
    """The paragraphs, headings and lists of a text in Markdown, as plain text.

    Nothing of it is markup any more; what is not understood stays as it is.
    """
    found: list[Block] = []
    for (_, kind), lines in groupby(_numbered(text), key=lambda line: line[:2]):
        texts = tuple(filter(None, (_inline(line) for *_, line in lines)))
        if texts:
            found.append(Block(kind, (" ".join(texts),) if kind == "text" else texts))
    return found


def examples(captions: Sequence[str]) -> list[str]:
    """A few searches that find something: what some of the captions say and most do not.

    Args:
        captions: Of images that were chosen at random.
    """
    said = [_terms(Caption.read(caption).description) for caption in captions]
    counts = Counter(term for terms in said for term in terms)
    least, most = max(2, len(said) * MIN_SHARE), len(said) * MAX_SHARE
    # Two words say more than one, and what more images show leads to more.
    fitting = [term for term, count in counts.items() if least <= count <= most]
    fitting.sort(key=lambda term: (-term.count(" "), -counts[term], term))
    chosen: list[str] = []
    for term in fitting:
        if not any(set(term.split()) & set(other.split()) for other in chosen):
            chosen.append(term)
    return chosen[:MAX_EXAMPLES]


def _terms(text: str) -> set[str]:
    """The words and pairs of words of a caption that could be searched for."""
    words = _WORD.findall(text.lower())
    useful = [word if len(word) > 2 and word not in _COMMON else "" for word in words]
    pairs = pairwise(useful)
    single = {word for word in useful if len(word) > 3}
    return single | {" ".join(pair) for pair in pairs if all(pair)}


def shortened(text: str, length: int) -> str:
    """The beginning of a text, up to the end of a word."""
    if len(text) <= length:
        return text
    return text[: length - 1].rsplit(" ", 1)[0].rstrip(" ,.;:") + "…"


def _numbered(text: str) -> Iterator[tuple[int, Kind, str]]:
    """Each line with the number of its block and its kind."""
    number = 0
    for line in text.splitlines():
        bare = line.strip().lstrip("> ")
        if not bare or _RULE.fullmatch(bare):
            number += 1
            continue
        kind, rest = _kind(bare)
        number += kind == "heading"
        yield number, kind, rest


def _kind(line: str) -> tuple[Kind, str]:
    for kind, start in _STARTS.items():
        if match := start.match(line):
            return kind, match[1]
    if line.startswith("|"):
        return "list", ", ".join(filter(None, (cell.strip() for cell in line.split("|"))))
    return "text", line


def _inline(text: str) -> str:
    plain = _STRONG.sub(r"\2", _LINKED.sub(r"\1", text))
    return _EMPHASIS.sub(r"\2", plain).strip()


def _first_lines(lines: Iterable[str]) -> Iterator[str]:
    left = MAX_LEAD
    for line in lines:
        if left <= 0:
            return
        yield shortened(line, left)
        left -= len(line)
