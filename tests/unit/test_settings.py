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
        ("STORE_IMAGES", "some", "STORE_IMAGES: "),
        ("KEEP_OBJECTS", "30", "KEEP_OBJECTS: expected an age of a day or more"),
        ("KEEP_IMAGES", "1y,2y", "KEEP_IMAGES: expected ages such as 2y,W021=90d"),
        ("SAGE_FILTER", "{name", "SAGE_FILTER: expected JSON"),
        ("SAGE_FILTER", "[]", "SAGE_FILTER: "),
        ("SAGE_FILTER", '{"name": 3}', "SAGE_FILTER: "),
        ("WEAVIATE_SECURE", "perhaps", "WEAVIATE_SECURE: "),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL: "),
        ("WEAVIATE_HOST", "a\nb", "WEAVIATE_HOST: holds a control character"),
        ("SAGE_USER", "REPLACE_ME", "SAGE_USER: the placeholder REPLACE_ME must be replaced"),
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAGE_PASS", "se\ncret"),
        ("WEAVIATE_API_KEY", "se\x00cret"),
        ("CELERY_BROKER_URL", "redis://:secret\r@h/0"),
        ("FLOWER_BASIC_AUTH", "op:secret,"),
        ("FLOWER_BASIC_AUTH", ":secret"),
        ("FLOWER_BASIC_AUTH", "op:REPLACE_ME"),
        ("CELERY_BROKER_URL", "redis://:REPLACE_ME@h/0"),
    ],
)
def test_a_secret_that_cannot_be_right_is_refused_without_its_text(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings(**{name.lower(): value})
    assert str(raised.value).startswith(f"{name}: ")
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_read_from_a_file_loses_its_line_break(name: str) -> None:
    value = "redis://:pw@h/0" if "celery" in name else "ann:secret"
    settings = load_settings(**{name: f" {value}\n"})
    assert getattr(settings, name).get_secret_value() == value


def test_a_viewer_without_an_account_is_told_to_those_who_ask_for_accounts() -> None:
    settings = load_settings(flower_viewers="eve")
    with pytest.raises(ConfigError, match="FLOWER_VIEWERS: no account has the name 'eve'"):
        settings.accounts()


def test_accounts_have_roles() -> None:
    settings = load_settings(flower_basic_auth="ann:one,bob:two", flower_viewers="bob")
    assert [each.may_change for each in settings.accounts()] == [True, False]
    assert settings.flower_read_only and not settings.has_default_account


def test_a_lower_case_log_level_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert load_settings().log_level == "DEBUG"


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_is_in_no_repr_dump_or_error(name: str) -> None:
    value = "redis://:hunter2@redis/0" if name.startswith("celery") else "op:hunter2"
    settings = load_settings(**{name: value})
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()}"
    assert "hunter2" not in settings.model_dump_json()
    with pytest.raises(ConfigError) as raised:
        load_settings(**{name: ["hunter2"]})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["celery_broker_url", "celery_result_backend"])
def test_an_address_of_another_broker_is_not_shown_since_it_may_hold_a_password(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings(**{name: "amqp://:hunter2@rabbit//"})
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


def test_what_previews_say_has_a_store_of_its_own() -> None:
    real, previews = load_settings(), load_settings(preview_models=True)
    assert previews.weaviate_collection == "HybridSearchExamplePreview"
    assert previews.embedded_store_path == "./data/store-preview"
    assert (real.weaviate_collection, real.embedded_store_path) == (
        "HybridSearchExample",
        "./data/store",
    )
    assert load_settings(preview_models=True, weaviate_collection="Mine").weaviate_collection == (
        "Mine"
    )
    again = load_settings(**previews.model_dump())
    assert again.weaviate_collection == previews.weaviate_collection


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"triton_host": "triton-preview"}, True),
        ({"triton_host": "triton-preview", "preview_models": "false"}, False),
        ({"triton_host": "triton-gpu"}, False),
        ({"preview_models": "true"}, True),
        ({}, False),
    ],
)
def test_the_profile_of_compose_means_previews(given: dict[str, str], meant: bool) -> None:
    assert load_settings(**given).preview_models is meant


def test_a_real_account_is_told_from_a_replay() -> None:
    assert load_settings(sage_user="me").has_sage_account
    assert not load_settings().has_sage_account
    assert not load_settings(sage_user="me", sage_storage_hosts="replay:8000").has_sage_account
