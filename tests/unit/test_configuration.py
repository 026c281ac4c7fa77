"""docs/configuration.md and the settings say the same."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from pydantic import SecretStr

from inference.model_config import ModelConfig
from weavloader.settings import Environment, Settings, read_environment

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `([A-Z0-9_]+)` \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
ROWS: dict[str, str] = {name: default for name, default, _ in ROW.findall(PAGE)}
KINDS: tuple[type[Environment], ...] = (Settings, ModelConfig)
# Its default is a paragraph, which stands in the code alone.
IN_THE_CODE = {"CAPTION_PROMPT"}


def written_default(name: str) -> str:
    """What the page gives as the default, as one would put it into the environment."""
    text = ROWS[name]
    if text == "empty":
        return ""
    assert text[0] == text[-1] == "`", f"{name}: {text} is neither `code` nor empty"
    return text[1:-1].replace("/tmp/", f"{tempfile.gettempdir()}/")


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    assert sorted(ROWS) == sorted(name.upper() for kind in KINDS for name in kind.model_fields)


def test_no_setting_is_documented_twice() -> None:
    assert len(ROW.findall(PAGE)) == len(ROWS)


@pytest.mark.parametrize("name", sorted(ROWS.keys() - IN_THE_CODE))
def test_a_documented_default_put_into_the_environment_is_the_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, written = name.lower(), written_default(name)
    (kind,) = (each for each in KINDS if field in each.model_fields)
    default = plain(kind.model_fields[field].get_default(call_default_factory=True))
    monkeypatch.setenv(name, written)  # an empty one would count as not set
    read = plain(getattr(read_environment(kind), field))
    assert read == default if written else not default


def plain(value: object) -> object:
    """The value itself, also of a secret."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value
