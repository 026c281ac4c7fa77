"""Every error of the project, in one tree, and every reason one can have.

::

    WeavloaderError
    ├── ConfigError       the operator must change something: exit code 2
    ├── TransientError    the same work may succeed later: retry
    └── PermanentError    the same work will fail again: dead letter at once

Whether an image is retried or becomes a dead letter follows from the class alone. Its
:class:`Reason` names what happened: for metrics, dead letters, the circuit breaker and the docs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Kind(StrEnum):
    """Which class an error of a reason has."""

    CONFIG = "config"
    TRANSIENT = "transient"
    PERMANENT = "permanent"


class Component(StrEnum):
    """What a reason is about, and so where to look."""

    IMAGE = "image"  # the file itself
    RECORD = "record"  # what the stream says of an image
    SAGE = "sage"  # the data API and the manifests
    STORAGE = "storage"  # SAGE's storage of files
    TRITON = "triton"
    CAPTIONER = "captioner"  # another server than Triton, that of OPENAI_BASE_URL
    STORE = "store"
    REDIS = "redis"
    MESSAGE = "message"  # a task message on a queue
    WORKER = "worker"
    FLOWER = "flower"
    OPERATOR = "operator"  # a setting, an argument, a file that a person gave
    DEMO = "demo"


_CONFIG, _TRANSIENT, _PERMANENT = Kind.CONFIG, Kind.TRANSIENT, Kind.PERMANENT
_WAIT = "images wait and are processed once it is back; `python main.py check` names the cause"
_SEE_TRITON = "see Triton's log, fix or restart the model, then retry"
_SEE_STORE = "run `python main.py check`, fix the store, then retry"
_NOTHING = "none: the file is like this at SAGE; retry if the node uploads it again"
_REPORT = "report it as a bug of Weavloader, with the traceback"
_STARTS_AGAIN = "none needed: the next poll reads the same range again"
_FOREIGN = "find the program that wrote it to the queue"
_SEE_LOG = "see the log of the component"


class Reason(StrEnum):
    """A short constant word for each kind of failure, fit for a metric's label.

    Attributes:
        kind: The class of the errors that carry it.
        component: What it is about.
        remedy: One line for the operator.
    """

    kind: Kind
    component: Component
    remedy: str

    def __new__(cls, word: str, kind: Kind, component: Component, remedy: str) -> Self:
        """A member that is its word and carries the rest."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.kind, member.component, member.remedy = kind, component, remedy
        return member

    # The file of an image
    EMPTY = "empty", _PERMANENT, Component.IMAGE, _NOTHING
    NOT_AN_IMAGE = "not_an_image", _PERMANENT, Component.IMAGE, _NOTHING
    NOT_FOUND = "not_found", _PERMANENT, Component.IMAGE, _NOTHING
    NOT_YET_UPLOADED = (
        "not_yet_uploaded", _TRANSIENT, Component.STORAGE,
        "none needed: asked for again until LATE_UPLOAD_WINDOW after its record, then `not_found`",
    )  # fmt: skip
    TOO_LARGE = (
        "too_large", _PERMANENT, Component.IMAGE,
        "raise MAX_IMAGE_BYTES if the image is wanted, then retry",
    )  # fmt: skip
    UNSUPPORTED_FORMAT = (
        "unsupported_format", _PERMANENT, Component.IMAGE,
        "none: JPEG, PNG, WebP, GIF, BMP and TIFF are taken; exclude the others by SAGE_FILTER",
    )  # fmt: skip
    TOO_MANY_PIXELS = (
        "too_many_pixels", _PERMANENT, Component.IMAGE,
        "raise MAX_IMAGE_PIXELS or MAX_DECODE_BYTES, as it says, if it is wanted, then retry",
    )  # fmt: skip
    TOO_MANY_SCANS = (
        "too_many_scans", _PERMANENT, Component.IMAGE,
        "none: no camera writes such a file; ask who uploads it",
    )  # fmt: skip
    DECODE_TIMEOUT = (
        "decode_timeout", _PERMANENT, Component.IMAGE,
        "inspect the image before a retry: decoding it took longer than it may",
    )  # fmt: skip
    OUT_OF_MEMORY = (
        "out_of_memory", _TRANSIENT, Component.WORKER,
        "give the role more memory, or lower its concurrency or MAX_DECODE_BYTES",
    )  # fmt: skip
    KILLS_ITS_PROCESS = (
        "kills_its_process", _PERMANENT, Component.IMAGE,
        "inspect the image before a retry: its process died three times, often from lack of memory",
    )  # fmt: skip
    TIME_LIMIT = (
        "time_limit", _TRANSIENT, Component.WORKER,
        "find the slow stage in the log, then retry or wait for the daily run",
    )  # fmt: skip

    # Records of the stream
    BAD_LINE = "bad_line", _PERMANENT, Component.RECORD, "none: the line is not JSON"
    BAD_RECORD = "bad_record", _PERMANENT, Component.RECORD, "none: the record is not an image"
    BAD_TIMESTAMP = "bad_timestamp", _PERMANENT, Component.RECORD, "correct the clock of the node"
    BAD_URL = "bad_url", _PERMANENT, Component.RECORD, "none: the record has no usable link"
    UNWANTED_FILE = (
        "unwanted_file", _PERMANENT, Component.RECORD,
        "none: the file is no picture by its suffix; narrow SAGE_FILTER to see fewer",
    )  # fmt: skip
    FOREIGN_HOST = (
        "foreign_host", _PERMANENT, Component.RECORD,
        "none, or add the host to SAGE_STORAGE_HOSTS or SAGE_PUBLIC_HOSTS, then retry",
    )  # fmt: skip

    # SAGE
    SAGE_UNREACHABLE = "sage_unreachable", _TRANSIENT, Component.SAGE, _STARTS_AGAIN
    SAGE_REFUSED = "sage_refused", _TRANSIENT, Component.SAGE, "check SAGE_DATA_API and SAGE_FILTER"
    SAGE_CUT = "sage_cut", _TRANSIENT, Component.SAGE, _STARTS_AGAIN
    SAGE_GARBAGE = "sage_garbage", _TRANSIENT, Component.SAGE, "check SAGE_DATA_API"
    LOCK_LOST = "lock_lost", _TRANSIENT, Component.SAGE, _STARTS_AGAIN
    MANIFEST_UNREACHABLE = (
        "manifest_unreachable", _TRANSIENT, Component.SAGE, "check MANIFEST_API, then retry",
    )  # fmt: skip
    NODE_FORBIDDEN = (
        "node_forbidden", _PERMANENT, Component.STORAGE,
        "none, or ask SAGE for access to the node's images, then retry",
    )  # fmt: skip
    STORAGE_AUTH = (
        "storage_auth", _TRANSIENT, Component.STORAGE, "correct SAGE_USER and SAGE_PASS",
    )  # fmt: skip
    STORAGE_ERROR = (
        "storage_error", _TRANSIENT, Component.STORAGE, "retry, or wait for the daily run",
    )  # fmt: skip
    STORAGE_REDIRECTS = (
        "storage_redirects", _TRANSIENT, Component.STORAGE, "retry, or wait for the daily run",
    )  # fmt: skip
    STORAGE_UNREACHABLE = (
        "storage_unreachable", _TRANSIENT, Component.STORAGE, "retry, or wait for the daily run",
    )  # fmt: skip

    # Triton and its models
    TRITON_UNAVAILABLE = "triton_unavailable", _TRANSIENT, Component.TRITON, _WAIT
    TRITON_TIMEOUT = "triton_timeout", _TRANSIENT, Component.TRITON, _SEE_TRITON
    TRITON_CANCELLED = "triton_cancelled", _TRANSIENT, Component.TRITON, _SEE_TRITON
    TRITON_OVERLOADED = (
        "triton_overloaded", _TRANSIENT, Component.TRITON,
        "run fewer processors or more Tritons, then retry",
    )  # fmt: skip
    TRITON_ERROR = "triton_error", _TRANSIENT, Component.TRITON, _SEE_TRITON
    MODEL_MISSING = (
        "model_missing", _TRANSIENT, Component.TRITON,
        "serve the models of CAPTION_MODEL and EMBEDDING_MODELS; images wait",
    )  # fmt: skip
    PREVIEW_MODELS = (
        "preview_models", _TRANSIENT, Component.TRITON,
        "set TRITON_HOST to a Triton that serves real models; PREVIEW_MODELS=true to try it with"
        " the preview models, in a store of their own; images wait",
    )  # fmt: skip
    PREVIEW_STORE = (
        "preview_store", _CONFIG, Component.STORE,
        "name another WEAVIATE_COLLECTION or EMBEDDED_STORE_PATH, or none",
    )  # fmt: skip
    MODEL_ERROR = "model_error", _TRANSIENT, Component.TRITON, _SEE_TRITON
    BAD_ANSWER = "bad_answer", _TRANSIENT, Component.TRITON, _SEE_TRITON
    BAD_EMBEDDING = "bad_embedding", _TRANSIENT, Component.TRITON, _SEE_TRITON
    BAD_INPUT = (
        "bad_input", _PERMANENT, Component.TRITON,
        "see the message: the model keeps its contract, and refused this image or its caption",
    )  # fmt: skip
    BAD_IMAGE = "bad_image", _PERMANENT, Component.TRITON, _REPORT
    MODEL_CONTRACT = (
        "model_contract", _CONFIG, Component.TRITON, "serve the model with the documented contract",
    )  # fmt: skip
    UNKNOWN_MODEL = (
        "unknown_model", _CONFIG, Component.TRITON, "correct CAPTION_MODEL or EMBEDDING_MODELS",
    )  # fmt: skip

    # The server of CAPTION_MODEL=openai
    CAPTIONER_UNAVAILABLE = "captioner_unavailable", _TRANSIENT, Component.CAPTIONER, _WAIT
    CAPTIONER_TIMEOUT = (
        "captioner_timeout", _TRANSIENT, Component.CAPTIONER,
        "raise OPENAI_TIMEOUT, or run fewer processors, then retry",
    )  # fmt: skip
    CAPTIONER_OVERLOADED = (
        "captioner_overloaded", _TRANSIENT, Component.CAPTIONER,
        "run fewer processors, or raise the limits of the server or account; images wait",
    )  # fmt: skip
    CAPTIONER_AUTH = (
        "captioner_auth", _TRANSIENT, Component.CAPTIONER,
        "correct OPENAI_API_KEY, or the rights or credit of its account; images wait",
    )  # fmt: skip
    CAPTIONER_NOT_FOUND = (
        "captioner_not_found", _TRANSIENT, Component.CAPTIONER,
        "correct OPENAI_MODEL or OPENAI_BASE_URL; `python main.py check` lists the models",
    )  # fmt: skip
    CAPTIONER_CONTEXT = (
        "captioner_context", _TRANSIENT, Component.CAPTIONER,
        "raise the server's context length, or lower OPENAI_MAX_PIXELS or OPENAI_MAX_NEW_TOKENS",
    )  # fmt: skip
    CAPTIONER_REFUSED = (
        "captioner_refused", _TRANSIENT, Component.CAPTIONER,
        "see the message and the server's log; OPENAI_MODEL must be a model that takes images",
    )  # fmt: skip
    CAPTIONER_ERROR = (
        "captioner_error", _TRANSIENT, Component.CAPTIONER, "see the server's log, then retry",
    )  # fmt: skip
    CAPTIONER_BAD_ANSWER = (
        "captioner_bad_answer", _TRANSIENT, Component.CAPTIONER,
        "see the message; a reasoning model may need a higher OPENAI_MAX_NEW_TOKENS",
    )  # fmt: skip
    CAPTION_FILTERED = (
        "caption_filtered", _PERMANENT, Component.CAPTIONER,
        "none, or retry with another model: the server's filter or the model declined the image",
    )  # fmt: skip

    # The store
    STORE_UNREACHABLE = "store_unreachable", _TRANSIENT, Component.STORE, _WAIT
    STORE_FAILED = "store_failed", _TRANSIENT, Component.STORE, _SEE_STORE
    STORE_AUTH = "store_auth", _TRANSIENT, Component.STORE, "correct WEAVIATE_API_KEY; images wait"
    STORE_LOCKED = "store_locked", _TRANSIENT, Component.STORE, "run fewer writers, then retry"
    STORE_FULL = "store_full", _TRANSIENT, Component.STORE, "free space on the disk; images wait"
    STORE_IO = "store_io", _TRANSIENT, Component.STORE, _SEE_STORE
    STORE_MEMORY = "store_memory", _TRANSIENT, Component.STORE, "free memory; images wait"
    STORE_DAMAGED = "store_damaged", _TRANSIENT, Component.STORE, "restore a backup, then retry"
    STORE_REFUSED = "store_refused", _PERMANENT, Component.STORE, _REPORT
    STORE_CLOSED = "store_closed", _PERMANENT, Component.STORE, _REPORT
    STORE_FORKED = "store_forked", _PERMANENT, Component.STORE, _REPORT
    BAD_OBJECT = "bad_object", _PERMANENT, Component.STORE, _REPORT
    BAD_VECTOR = "bad_vector", _PERMANENT, Component.STORE, _REPORT
    BAD_QUERY = "bad_query", _PERMANENT, Component.STORE, "correct the search"
    WRONG_DIMENSION = (
        "wrong_dimension", _TRANSIENT, Component.STORE,
        "serve the embedding model that the stored vectors were made with; images wait",
    )  # fmt: skip
    STORE_PATH = "store_path", _CONFIG, Component.STORE, "correct EMBEDDED_STORE_PATH"
    STORE_SCHEMA = "store_schema", _CONFIG, Component.STORE, "`python main.py schema check`"
    NO_RERANKER = (
        "no_reranker", _CONFIG, Component.STORE, "search without reranking, or enable the module",
    )  # fmt: skip

    # Redis, messages, workers
    REDIS_UNREACHABLE = "redis_unreachable", _TRANSIENT, Component.REDIS, _WAIT
    MALFORMED_MESSAGE = (
        "malformed_message", _PERMANENT, Component.MESSAGE, _FOREIGN,
    )  # fmt: skip
    MESSAGE_TOO_LARGE = (
        "message_too_large", _PERMANENT, Component.MESSAGE, _FOREIGN,
    )  # fmt: skip
    UNKNOWN_TASK = (
        "unknown_task", _PERMANENT, Component.MESSAGE, _FOREIGN,
    )  # fmt: skip
    NO_WORKER = "no_worker", _TRANSIENT, Component.WORKER, "start the role, or see its log"
    WORKER_RESTARTS = (
        "worker_restarts", _TRANSIENT, Component.WORKER,
        "see the worker's log for why it ends; a message that ends it becomes a dead letter",
    )  # fmt: skip
    CIRCUIT_OPEN = (
        "circuit_open", _TRANSIENT, Component.WORKER, "fix the component it names; images wait",
    )  # fmt: skip
    NO_POLL = "no_poll", _TRANSIENT, Component.WORKER, "see the logs of stream and moderator"
    NO_SCHEDULER = "no_scheduler", _TRANSIENT, Component.WORKER, "start the scheduler"
    NO_PAGE = "no_page", _TRANSIENT, Component.WORKER, "start the role, or see its log"
    UNREACHABLE = "unreachable", _TRANSIENT, Component.WORKER, _SEE_LOG
    FLOWER_UNREACHABLE = "flower_unreachable", _TRANSIENT, Component.FLOWER, "start Flower"
    FLOWER_GARBAGE = "flower_garbage", _TRANSIENT, Component.FLOWER, "correct FLOWER_URL"

    # What a person gave
    BAD_SETTING = "bad_setting", _CONFIG, Component.OPERATOR, "correct the named setting"
    BAD_ADDRESS = "bad_address", _CONFIG, Component.OPERATOR, "choose another address or port"
    BAD_ARGUMENT = "bad_argument", _CONFIG, Component.OPERATOR, "see `--help` of the command"
    NO_CREDENTIALS = "no_credentials", _CONFIG, Component.OPERATOR, "set SAGE_USER and SAGE_PASS"
    NO_DEAD_LETTER = (
        "no_dead_letter", _PERMANENT, Component.OPERATOR, "none: its image may be stored by now",
    )  # fmt: skip

    # Servers that demo and tests start
    DEMO_FAILED = "demo_failed", _TRANSIENT, Component.DEMO, _SEE_LOG
    SERVER_SLOW = "server_slow", _TRANSIENT, Component.DEMO, _SEE_LOG
    NO_PORTS = "no_ports", _TRANSIENT, Component.DEMO, "end some servers on this machine"
    SERVER_DIED = "server_died", _CONFIG, Component.DEMO, _SEE_LOG
    INSTALL_FAILED = "install_failed", _CONFIG, Component.DEMO, "see what the message names"


class WeavloaderError(Exception):
    """Root of the project's errors.

    Args:
        message: One line for a person.
        reason: The kind of failure.
    """

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Keep ``reason`` when Celery carries the error between processes."""
        return (_rebuild, (type(self), str(self), str(self.reason)))


class ConfigError(WeavloaderError):
    """A setting, argument or file given by the operator is wrong."""


class TransientError(WeavloaderError):
    """A dependency failed in a way that may pass."""


class PermanentError(WeavloaderError):
    """The input itself is at fault; trying again gives the same answer."""


_BY_WORD = {str(reason): reason for reason in Reason}


def find_reason(word: str) -> Reason | None:
    """The reason with this word; ``None`` where this version has none such."""
    return _BY_WORD.get(word)


def _rebuild(kind: type[WeavloaderError], message: str, reason: str) -> WeavloaderError:
    return kind(message, reason=_BY_WORD[reason])
