"""Every setting of every role, read once from the environment.

Nothing else in the project reads ``os.environ``. Field names are the environment variables
in lower case; ``docs/configuration.md`` lists them for users and a test compares the two.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from weavloader.accounts import DEFAULT_FLOWER_AUTH, PLACEHOLDER, Account, parse_accounts
from weavloader.errors import ConfigError, Reason
from weavloader.times import FOR_EVER, Ages, parse_duration

__all__ = ["DEFAULT_FLOWER_AUTH", "Settings", "get_settings", "load_settings"]

# Each is written in its own syntax, which may hold line breaks.
_MULTILINE = ("sage_filter",)
SAGE_STORAGE = "storage.sagecontinuum.org"
PREVIEW_HOST = "triton-preview"
PREVIEW_STORE = {
    "weaviate_collection": "HybridSearchExamplePreview",
    "embedded_store_path": "./data/store-preview",
}
_REDIS_SCHEMES = ("redis", "rediss", "sentinel")

OPENAI = "openai"
"""The ``CAPTION_MODEL`` of an OpenAI-compatible server, asked instead of Triton."""


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _not_empty(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("expected a comma-separated list")
    return names


def parse_filter(text: str) -> dict[str, str]:
    """A filter of the data API from JSON: regular expressions by field.

    Raises:
        ConfigError: The text is no such object.
    """
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        message = f'expected a filter such as {{"name": "upload"}}, not {text[:80]!r}'
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return fields


def _sage_filter(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('expected JSON such as {"name": "upload"}') from None


def _verified(url: object) -> object:
    """``rediss://`` with the check of certificates written out: where it is not, Celery refuses
    the URL for results, and for messages connects without TLS."""
    if not isinstance(url, str) or not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"


def _base_url(value: object) -> object:
    text = str(value).rstrip("/")
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        is_url = False
    if not is_url:
        raise ValueError("expected a URL such as https://weavloader.example.org")
    return text


def _accounts(secret: SecretStr) -> SecretStr:
    parse_accounts(secret.get_secret_value())
    return secret


def _redis_url(url: object) -> object:
    """Reject the URL of another broker, by which clients would fail much later."""
    if not isinstance(url, str):
        return url  # a default
    first, *sentinels = url.split(";")
    try:
        scheme, _ = urlsplit(first).scheme, [urlsplit(each).port for each in (first, *sentinels)]
    except ValueError:  # a port that is no number
        scheme = ""
    if scheme not in _REDIS_SCHEMES:
        raise ValueError("expected redis://HOST:PORT/DB, rediss://… or sentinel://…")
    return _verified(url)


def _ages(value: object) -> object:
    return Ages.parse(value) if isinstance(value, str) else value


Url = Annotated[str, BeforeValidator(_base_url)]
OptionalUrl = Annotated[str, BeforeValidator(lambda value: value and _base_url(value))]
Accounts = Annotated[SecretStr, AfterValidator(_accounts)]
AgeRule = Annotated[Ages, NoDecode, BeforeValidator(_ages)]
Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Port = Annotated[int, Field(ge=1, le=65535)]
RedisUrl = Annotated[SecretStr, BeforeValidator(_redis_url)]
StoreImages = Literal["full", "reduced", "none"]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda name: str(name).upper()),
]


class Environment(BaseSettings):
    """A set of settings, each the environment variable of its name; immutable."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)


Read = TypeVar("Read", bound=Environment)


class Settings(Environment):
    """The configuration of one process; secrets are masked in its ``repr``."""

    sage_user: str = ""
    sage_pass: SecretStr = SecretStr("")
    sage_data_api: str = "https://data.sagecontinuum.org/api/v1/query"
    sage_storage_hosts: Names = (SAGE_STORAGE,)
    sage_public_hosts: Names = ()
    sage_filter: Annotated[dict[str, str], NoDecode, BeforeValidator(_sage_filter)] = {
        "name": "upload",
        "task": "imagesampler-.*",
    }
    manifest_api: str = "https://auth.sagecontinuum.org/manifests/"
    manifest_ttl: Seconds = 3600.0
    position_ttl: Seconds = 300.0
    sage_timeout: Seconds = 30.0
    sage_deadline: Seconds = 120.0
    unallowed_nodes: Names = ()
    max_image_bytes: int = Field(default=32 * 1024 * 1024, gt=0)
    max_image_pixels: int = Field(default=25_000_000, gt=0)
    max_decode_bytes: int = Field(default=320 * 1024 * 1024, gt=0)

    triton_host: str = "triton"
    triton_port: Port = 8001
    triton_timeout: Seconds = 120.0
    # Which names there are is for `inference` to say, so that a model can be added there alone.
    caption_model: str = "gemma3"
    # True for the host of docker-compose.yml's profile `preview`, unless given.
    preview_models: bool = False
    embedding_models: Annotated[Names, AfterValidator(_not_empty)] = ("clip",)
    openai_base_url: OptionalUrl = ""
    openai_api_key: SecretStr = SecretStr("")
    openai_model: str = ""
    openai_timeout: Seconds = 120.0

    vector_store: Literal["weaviate", "embedded"] = "weaviate"
    embedded_store_path: str = "./data/store"
    weaviate_host: str = "weaviate"
    weaviate_port: Port = 8080
    weaviate_grpc_port: Port = 50051
    weaviate_secure: bool = False
    weaviate_api_key: SecretStr = SecretStr("")
    weaviate_collection: str = "HybridSearchExample"
    store_timeout: Seconds = 30.0
    # What is kept of a picture when its image is stored, how long, and how long the image itself.
    store_images: StoreImages = "full"
    keep_images: AgeRule = FOR_EVER
    keep_objects: AgeRule = FOR_EVER

    celery_broker_url: RedisUrl = SecretStr("redis://localhost:6379/0")
    celery_result_backend: RedisUrl = SecretStr("redis://localhost:6379/0")
    redis_master_name: str = "mymaster"
    poll_min_seconds: Seconds = 15.0
    poll_max_seconds: Seconds = 120.0
    stream_lookback: Seconds = 600.0
    reconcile_window: Seconds = 86400.0
    audit_window: Seconds = 7 * 86400.0
    late_upload_window: Seconds = 7200.0
    queue_high_water: int = Field(default=10_000, gt=0)
    retry_delay: Seconds = 60.0
    retry_max_delay: Seconds = 600.0
    max_retries: int = Field(default=3, ge=0)
    circuit_failures: int = Field(default=5, gt=0)
    dlq_ttl: Seconds = 30 * 86400.0
    dlq_max_age: Seconds = 7 * 86400.0

    metrics_address: str = "0.0.0.0"  # noqa: S104 - scraped from other hosts
    metrics_port: Port = 8080
    web_address: str = "127.0.0.1"
    web_port: Port = 8081
    flower_address: str = "0.0.0.0"  # noqa: S104 - behind basic auth
    flower_port: Port = 5555
    flower_basic_auth: Accounts = SecretStr(DEFAULT_FLOWER_AUTH)
    flower_viewers: Names = ()
    flower_read_only: bool = True
    flower_url: str = "http://localhost:5555"
    flower_db: str = ""
    # As people open them: what alerts and the dashboard link to.
    public_url: Url = "http://localhost:8081"
    webhook_hosts: Names = ()
    grafana_url: Url = "http://localhost:3000"
    flower_public_url: Url = "http://localhost:5555"
    # OpenTelemetry's own names.
    otel_exporter_otlp_endpoint: OptionalUrl = ""
    otel_exporter_otlp_headers: SecretStr = SecretStr("")
    otel_service_name: str = "weavloader"
    otel_traces_sampler_arg: float = Field(default=1.0, ge=0, le=1)
    log_format: Literal["text", "json"] = "text"
    log_level: LogLevel = "INFO"
    # A factory, since to find the folder for temporary files Python writes one.
    prometheus_multiproc_dir: str = Field(
        default_factory=lambda: os.path.join(tempfile.gettempdir(), "weavloader-metrics")
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: object, info: ValidationInfo) -> object:
        """A secret read from a file ends in a newline, which HTTP clients quote in their errors."""
        if not isinstance(value, str):
            return value
        text = value.strip()
        if PLACEHOLDER in text:
            raise ValueError(f"the placeholder {PLACEHOLDER} must be replaced")
        if info.field_name not in _MULTILINE and not text.isprintable():
            raise ValueError("holds a control character")
        return text

    @model_validator(mode="after")
    def _keep_previews_apart(self) -> Self:
        """Give what the preview models say a store of its own, unless one is named."""
        given, chosen = self.model_fields_set, self.__dict__
        if "preview_models" not in given:
            chosen["preview_models"] = self.triton_host == PREVIEW_HOST
        if self.preview_models:
            for name, other in PREVIEW_STORE.items():
                chosen[name] = chosen[name] if name in given else other
        return self

    @property
    def has_sage_account(self) -> bool:
        """Whether images are read from SAGE itself, with an account."""
        return bool(self.sage_user) and SAGE_STORAGE in self.sage_storage_hosts

    def accounts(self) -> tuple[Account, ...]:
        """The accounts of Flower and of the dead-letter pages.

        Raises:
            ConfigError: A viewer has no account. Most roles get neither setting, so it is not
                checked before.
        """
        try:
            return parse_accounts(self.flower_basic_auth.get_secret_value(), self.flower_viewers)
        except ValueError as error:
            raise ConfigError(f"FLOWER_VIEWERS: {error}", reason=Reason.BAD_SETTING) from None

    def openai_server(self) -> tuple[str, str]:
        """Base URL and model of ``CAPTION_MODEL=openai``.

        Raises:
            ConfigError: One of them is not set.
        """
        if not (self.openai_base_url and self.openai_model):
            missing = "OPENAI_MODEL" if self.openai_base_url else "OPENAI_BASE_URL"
            message = f"{missing}: required by CAPTION_MODEL=openai"
            raise ConfigError(message, reason=Reason.BAD_SETTING)
        return self.openai_base_url, self.openai_model

    @property
    def has_default_account(self) -> bool:
        """Whether the published default password is in use."""
        return self.flower_basic_auth.get_secret_value() == DEFAULT_FLOWER_AUTH


def load_settings(**overrides: Any) -> Settings:
    """Read the environment, with ``overrides`` (field names) taking precedence.

    Raises:
        ConfigError: A value is wrong; the message is one line and never shows the value of
            a secret.
    """
    return read_environment(Settings, **overrides)


def read_environment(kind: type[Read], **overrides: Any) -> Read:
    """As :func:`load_settings`, for a set of settings that a part of the project has its own."""
    try:
        return kind(**overrides)
    except ValidationError as error:
        raise ConfigError(_one_line(error, kind), reason=Reason.BAD_SETTING) from None


@cache
def get_settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigError: As :func:`load_settings`.
    """
    return load_settings()


def publish_to_environment(name: str, value: str) -> None:
    """Hand a setting to libraries and child processes that only read the environment."""
    os.environ[name] = value


def _one_line(error: ValidationError, kind: type[Environment]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]).upper()
    text = first["msg"].removeprefix("Value error, ")
    field = kind.model_fields.get(str(first["loc"][0]))
    secret = field is not None and field.annotation is SecretStr
    given = "" if secret else f", not {str(first['input'])[:80]!r}"
    return f"{name}: {text[0].lower()}{text[1:]}{given}"
