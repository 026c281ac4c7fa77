"""A page that draws the dashboard's panels where Grafana would put them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import cycle, pairwise

from tools.panels import Panel, Point, Series

# Okabe and Ito's colours, which people who see few of them tell apart; yellow is too pale here.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#7b4fa3")
COLUMN, ROW, GAP = 50, 24, 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 6, 18
_LINE_HEIGHT, _HEAD = 13, 26
_MOST_NAMED = 6
_MIB = 1024**2
_STEPS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
STYLE = f"""
body {{ margin: 0; background: #f1f3f4; font: 12px/1.3 "DejaVu Sans", sans-serif; color: #24292e }}
main {{ position: relative; width: {24 * COLUMN + GAP}px }}
section, h2 {{ position: absolute; box-sizing: border-box; margin: 0 }}
section {{ background: #fff; border: 1px solid #d9dce0; border-radius: 3px; overflow: hidden }}
h2 {{ font-size: 14px; padding-top: 4px }}
h3, p {{ font-size: 12px; margin: 5px 8px 3px; white-space: nowrap }}
dl {{ display: grid; grid-template-columns: 1fr auto; gap: 1px 10px; margin: 2px 12px }}
dt {{ align-self: center }}
dd {{ margin: 0; text-align: right; font-weight: bold }}
.few dd {{ font-size: 20px }}
.green {{ color: #1a7f37 }} .yellow {{ color: #8a6100 }} .red {{ color: #c62828 }}
svg {{ display: block }} text {{ font-size: 10px; fill: #57606a }} .name {{ fill: #24292e }}
"""


def page(panels: Sequence[Panel], begin: float, end: float) -> str:
    """HTML of all panels.

    Args:
        begin: Where time axes begin, Unix seconds.
        end: Where they end.
    """
    rows = max(panel.at["y"] + panel.at["h"] for panel in panels)
    body = "".join(_block(panel, begin, end) for panel in panels)
    height = rows * (ROW + GAP) + GAP
    return f'<style>{STYLE}</style><main style="height: {height}px">{body}</main>'


def _block(panel: Panel, begin: float, end: float) -> str:
    at = panel.at
    width, height = at["w"] * COLUMN - GAP, at["h"] * (ROW + GAP) - GAP
    place = (
        f'style="left: {at["x"] * COLUMN + GAP}px; top: {at["y"] * (ROW + GAP) + GAP}px; '
        f'width: {width}px; height: {height}px"'
    )
    if panel.kind == "row":
        return f"<h2 {place}>{escape(panel.title)}</h2>"
    inside = "<p>No data</p>"
    if panel.series:
        is_chart = panel.kind == "timeseries"
        inside = _chart(panel, width, height, begin, end) if is_chart else _stat(panel)
    return f"<section {place}><h3>{escape(panel.title)}</h3>{inside}</section>"


def _stat(panel: Panel) -> str:
    newest = max(line.points[-1][0] for line in panel.series)
    # A series that ended, such as an alert that was resolved, has no value now.
    shown = [
        (line.name, line.points[-1][1]) for line in panel.series if line.points[-1][0] == newest
    ]
    few = "few" if len(shown) <= _MOST_NAMED else ""
    return f'<dl class="{few}">{"".join(_fact(panel, *fact) for fact in shown)}</dl>'


def _fact(panel: Panel, name: str, value: float) -> str:
    text = panel.words.get(f"{value:g}", _quantity(value, panel.unit))
    return f'<dt>{escape(name)}</dt><dd class="{panel.colour(value)}">{escape(text)}</dd>'


def _chart(panel: Panel, width: int, height: int, begin: float, end: float) -> str:
    named = panel.series[:_MOST_NAMED]
    high = height - _HEAD - _LINE_HEIGHT * (len(named) + (len(panel.series) > len(named))) - 6
    most = panel.most or _top(panel)
    scale = _Scale(begin, end, most, width, high)
    lines = zip(panel.series, cycle(COLOURS), strict=False)
    drawn = "".join(_line(scale, line, colour) for line, colour in lines)
    axes = "".join((*_levels(scale, panel.unit), *_times(scale)))
    legend = "".join(_legend(panel, high))
    return f'<svg width="{width}" height="{height - _HEAD}">{axes}{drawn}{legend}</svg>'


class _Scale:
    """Where a moment and a value are drawn, in pixels."""

    def __init__(self, begin: float, end: float, most: float, width: int, height: int) -> None:
        self.begin, self.end, self.most = begin, end, most
        self.right, self.bottom = width - _RIGHT, height - _BOTTOM

    def x(self, at: float) -> float:
        return _LEFT + (self.right - _LEFT) * (at - self.begin) / (self.end - self.begin)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - _TOP) * value / self.most


def _line(scale: _Scale, line: Series, colour: str) -> str:
    paths = "".join(
        "M" + "L".join(f"{scale.x(at):.1f} {scale.y(value):.1f}" for at, value in run)
        for run in _runs(line.points)
    )
    return (
        f'<path d="{paths}" fill="none" stroke="{colour}" stroke-width="1.6" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _runs(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Stretches without a gap; one point alone is drawn as a dot."""
    step = min((b[0] - a[0] for a, b in pairwise(points)), default=0.0)
    run = [points[0]]
    for before, point in pairwise(points):
        if point[0] - before[0] > 1.5 * step:
            yield run if len(run) > 1 else run * 2
            run = []
        run.append(point)
    yield run if len(run) > 1 else run * 2


def _levels(scale: _Scale, unit: str) -> Iterator[str]:
    for value in (0.0, scale.most / 2, scale.most):
        y = scale.y(value)
        yield f'<path d="M{_LEFT} {y:.1f}H{scale.right}" stroke="#e3e6e8"/>'
        text = _quantity(value, unit)
        yield f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'


def _times(scale: _Scale) -> Iterator[str]:
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = scale.begin + share * (scale.end - scale.begin)
        text = datetime.fromtimestamp(at, UTC).strftime("%H:%M")
        place = f'x="{scale.x(at):.1f}" y="{scale.bottom + 13}"'
        yield f'<text {place} text-anchor="{anchor}">{text}</text>'


def _legend(panel: Panel, top: int) -> Iterator[str]:
    for number, (line, colour) in enumerate(zip(panel.series, COLOURS, strict=False)):
        y = top + _LINE_HEIGHT * number
        if number == _MOST_NAMED:
            yield f'<text x="10" y="{y + 9}">and {len(panel.series) - number} more</text>'
            return
        yield f'<path d="M10 {y + 5}h12" stroke="{colour}" stroke-width="3"/>'
        yield f'<text class="name" x="28" y="{y + 9}">{escape(line.name)}</text>'


def _top(panel: Panel) -> float:
    """Where a value axis ends: a round number of its unit, no smaller than any value."""
    of_one = _MIB if panel.unit == "bytes" else 1.0
    most = max(value for line in panel.series for _, value in line.points) / of_one
    power = 10.0 ** math.floor(math.log10(most)) if most > 0 else 1.0
    return of_one * next(step * power for step in _STEPS if step * power >= most * 0.999)


def _quantity(value: float, unit: str) -> str:
    """A value with its unit, short."""
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "bytes":
        return f"{value / _MIB:,.0f} MiB"
    if unit == "s":
        return f"{value * 1000:,.3g} ms" if 0 < value < 1 else f"{value:,.4g} s"
    return f"{value:,.4g}"
