"""docs/configuration.md and the settings say the same."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from pydantic import SecretStr

from weavloader.settings import Settings, load_settings

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `([A-Z_]+)` \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
ROWS: dict[str, str] = {name: default for name, default, _ in ROW.findall(PAGE)}


def written_default(name: str) -> str:
    """What the page gives as the default, as one would put it into the environment."""
    text = ROWS[name]
    if text == "empty":
        return ""
    assert text[0] == text[-1] == "`", f"{name}: {text} is neither `code` nor empty"
    return text[1:-1].replace("/tmp/", f"{tempfile.gettempdir()}/")


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    assert sorted(ROWS) == sorted(name.upper() for name in Settings.model_fields)


def test_no_setting_is_documented_twice() -> None:
    assert len(ROW.findall(PAGE)) == len(ROWS)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_documented_default_put_into_the_environment_is_the_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, written = name.lower(), written_default(name)
    default = plain(Settings.model_fields[field].default)
    monkeypatch.setenv(name, written)  # an empty one would count as not set
    assert plain(getattr(load_settings(), field)) == default if written else not default


def plain(value: object) -> object:
    """The value itself, also of a secret."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value
