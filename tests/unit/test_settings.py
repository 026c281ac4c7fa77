"""Settings: what people write is understood, what is wrong is said in a line, secrets stay so."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from weavloader.errors import ConfigError
from weavloader.settings import Settings, get_settings, load_settings

SECRETS = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("W021", ("W021",)),
        (" w021 ,, W07A,", ("w021", "W07A")),
        (",", ()),
    ],
)
def test_a_list_is_cut_at_commas_and_trimmed(
    text: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNALLOWED_NODES", text)
    assert load_settings().unallowed_nodes == names


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_PORT", "")
    monkeypatch.setenv("STREAM_LOOKBACK", "")
    monkeypatch.setenv("SAGE_FILTER", "")
    settings = load_settings()
    assert (settings.triton_port, settings.stream_lookback) == (8001, 600)
    assert settings.sage_filter["name"] == "upload"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TRITON_PORT", "http", "TRITON_PORT: "),
        ("WEB_PORT", "70000", "WEB_PORT: "),
        ("METRICS_PORT", "0", "METRICS_PORT: "),
        ("STREAM_LOOKBACK", "a while", "STREAM_LOOKBACK: expected a duration"),
        ("STREAM_LOOKBACK", "0", "STREAM_LOOKBACK: "),
        ("RETRY_DELAY", "-60", "RETRY_DELAY: expected a duration"),
        ("MAX_RETRIES", "-1", "MAX_RETRIES: "),
        ("QUEUE_HIGH_WATER", "0", "QUEUE_HIGH_WATER: "),
        ("EMBEDDING_MODELS", ",", "EMBEDDING_MODELS: expected a comma-separated list"),
        ("VECTOR_STORE", "paper", "VECTOR_STORE: "),
        ("SAGE_FILTER", "{name", "SAGE_FILTER: expected JSON"),
        ("SAGE_FILTER", "[]", "SAGE_FILTER: "),
        ("SAGE_FILTER", '{"name": 3}', "SAGE_FILTER: "),
        ("WEAVIATE_SECURE", "perhaps", "WEAVIATE_SECURE: "),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL: "),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_shows_the_value(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        load_settings()
    text = str(raised.value)
    assert text.startswith(message)
    assert "\n" not in text
    assert len(text) < 250
    assert raised.value.__suppress_context__


def test_a_lower_case_log_level_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert load_settings().log_level == "DEBUG"


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_is_in_no_repr_dump_or_error(name: str) -> None:
    settings = load_settings(**{name: "hunter2"})
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()}"
    assert "hunter2" not in settings.model_dump_json()
    with pytest.raises(ConfigError) as raised:
        load_settings(**{name: ["hunter2"]})
    assert "hunter2" not in str(raised.value)


def test_what_may_hold_a_password_is_a_secret() -> None:
    """Names that say so, and the addresses of Redis, which carry one."""
    telling = {name for name in Settings.model_fields if name.endswith(("pass", "key", "auth"))}
    assert telling | {"celery_broker_url", "celery_result_backend"} <= SECRETS


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().triton_port = 1  # type: ignore[misc]


def test_settings_are_read_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    before = get_settings()
    monkeypatch.setenv("TRITON_PORT", "9")
    assert get_settings() is before
    get_settings.cache_clear()
