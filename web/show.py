"""Stored images as a page and the JSON interface show them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from weavloader.store.base import TEXT_PROPERTIES, ImageObject, SearchResult


def shown_result(result: SearchResult) -> dict[str, Any]:
    """A search result, ready for a template or for JSON."""
    return {
        "id": result.id,
        "score": round(result.score, 4),
        "caption": result.text.get("caption", ""),
        "vsn": result.text.get("vsn", ""),
        "camera": result.text.get("camera", ""),
        "captured_at": _iso(result.captured_at),
        "time": _readable(result.captured_at) or result.text.get("timestamp", ""),
    }


def image_details(image: ImageObject) -> dict[str, Any]:
    """An image with all its metadata, for its page."""
    facts = {name: image.text.get(name, "") for name in TEXT_PROPERTIES if name != "caption"}
    if image.location is not None:
        facts["location"] = f"{image.location.latitude:.5f}, {image.location.longitude:.5f}"
    facts["captured at"] = _readable(image.captured_at)
    facts["vectors"] = ", ".join(sorted(image.vectors))
    return {
        "id": image.id,
        "caption": image.text.get("caption", ""),
        "has_picture": bool(image.image),
        "facts": {name: value for name, value in facts.items() if value},
        "original": _safe_link(image.text),
    }


def _safe_link(text: Mapping[str, str]) -> str:
    link = text.get("link", "")
    try:
        scheme = urlsplit(link).scheme
    except ValueError:
        return ""
    return link if scheme in ("http", "https") else ""


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


def _readable(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else ""
