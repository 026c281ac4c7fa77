"""What other processes noted in Redis for everyone: how far the stream was followed, the audit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime

from prometheus_client import Metric

from metrics.families import gauge, gauges

# The states of an image are few; a note that names more is not from our audit.
MOST_STATES = 16
_STATE = re.compile(r"[a-z][a-z_]{0,31}")


def stream_families(last_look: bytes | None, newest: float | None, now: float) -> list[Metric]:
    """How far behind the stream the system is; nothing before the first look.

    Args:
        last_look: The moderator's note of its last look, JSON with ``at``.
        newest: Capture time of the newest image taken, Unix seconds.
        now: Unix seconds.
    """
    families = []
    if newest is not None:
        text = "Seconds since the capture of the newest image taken"
        families.append(gauge("stream_lag_seconds", text, max(0.0, now - newest)))
    if (looked := _moment(_object(last_look))) is not None:
        text = "Seconds since the stream was looked at"
        families.append(gauge("stream_last_look_seconds", text, max(0.0, now - looked)))
    return families


def audit_families(note: bytes | None, now: float) -> list[Metric]:
    """What the last audit counted; nothing before the first.

    Args:
        note: JSON with ``at`` (RFC 3339) and ``counts`` (images by state).
        now: Unix seconds.
    """
    fields = _object(note)
    moment, counts = _moment(fields), _counts(fields.get("counts"))
    if moment is None or not counts:
        return []
    return [
        gauges("audit_images", "Images by what the last audit found", "state", counts),
        gauge("audit_age_seconds", "Seconds since the last audit", max(0.0, now - moment)),
    ]


def _object(text: bytes | None) -> Mapping[str, object]:
    try:
        fields = json.loads(text or b"{}")
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _moment(fields: Mapping[str, object]) -> float | None:
    try:
        return datetime.fromisoformat(str(fields.get("at"))).timestamp()
    except ValueError:
        return None


def _counts(counts: object) -> dict[str, float]:
    if not isinstance(counts, dict) or len(counts) > MOST_STATES:
        return {}
    return {
        state: float(amount)
        for state, amount in counts.items()
        if _STATE.fullmatch(state) and isinstance(amount, int)
    }
