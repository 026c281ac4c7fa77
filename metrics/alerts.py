"""The alerts of ``artifacts/alerts.yml``: from which value on each fires, and how bad that is.

What shows such a value in colour, the Now page and the dashboard, asks here, so that it is red
where the alert fires.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "artifacts" / "alerts.yml"
_RULE = re.compile(
    r"^ +- alert: (\w+)\n(?:.*\n)*?"
    r" +expr: (?:>-\n)?((?:.*\n)+?)(?: +for: .*\n)? +labels: \{severity: (\w+)\}$",
    re.M,
)
_LIMIT = re.compile(r" > (\d+(?:\.\d+)?)\b")


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert.

    Attributes:
        severity: ``critical``, ``warning`` or ``info``.
        limit: The first number above which its expression is true; 0 where it has none.
    """

    name: str
    severity: str
    limit: float

    @property
    def words(self) -> str:
        """Its name as people say it, such as ``stream silent``."""
        return re.sub("(?<=.)(?=[A-Z])", " ", self.name.removeprefix("Weavloader")).lower()


@cache
def alerts() -> dict[str, Alert]:
    """Every alert by its name."""
    found = {}
    for name, expression, severity in _RULE.findall(_FILE.read_text()):
        limit = _LIMIT.search(expression)
        found[name] = Alert(name, severity, float(limit[1]) if limit else 0.0)
    return found
