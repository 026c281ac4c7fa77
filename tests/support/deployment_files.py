"""The deployment files, and what they have to agree with in the code, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import yaml
from flower.urls import handlers as flower_handlers

from inference.model_config import ModelConfig
from metrics import server as metrics_server
from weavloader.settings import Settings
from web.server import ROUTES as PAGES

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OUR_IMAGE = "weavloader:0.1.0"
KNOWN = {name.upper() for name in Settings.model_fields}
HYPERPARAMETERS = {name.upper() for name in ModelConfig.model_fields}
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
SECRETS = {
    "SAGE_PASS",
    "REDIS_PASSWORD",
    "REDISCLI_AUTH",
    "FLOWER_BASIC_AUTH",
    "WEAVIATE_API_KEY",
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "ALERT_WEBHOOK_URL",
    "ALERT_SMTP_PASSWORD",
}
# Read by metrics/artifacts/alertmanager.sh.
OF_ALERTMANAGER = {
    "ALERT_WEBHOOK_URL",
    "ALERT_EMAIL_TO",
    "ALERT_EMAIL_FROM",
    "ALERT_SMTP_HOST",
    "ALERT_SMTP_USER",
    "ALERT_SMTP_PASSWORD",
}
NOT_SETTINGS = {
    "REDIS_PASSWORD",  # of which the broker's URL is made
    "HF_TOKEN",  # read by Triton's models
    "GPU_CONCURRENCY",  # an option of Compose's processor-gpu
    "REDIS_INSIDE",  # read by supervisord.conf
    "PATH",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    *OF_ALERTMANAGER,
}


@cache
def documents(name: str) -> list[dict[str, Any]]:
    """The documents of a YAML file of this repository."""
    return list(yaml.safe_load_all((ROOT / name).read_text()))


def compose() -> dict[str, Any]:
    """The compose file."""
    return documents("docker-compose.yml")[0]


@cache
def served() -> dict[int, set[str]]:
    """The paths that each of our servers knows, by its port."""
    metrics_rules = metrics_server.routes(MagicMock(), MagicMock(), MagicMock())
    flower_rules = (rule for rule in flower_handlers if isinstance(rule, tuple))
    return {
        DEFAULTS["metrics_port"]: {rule.regex.pattern.rstrip("$") for rule in metrics_rules},
        DEFAULTS["web_port"]: set(PAGES),
        DEFAULTS["flower_port"]: {rule[0] for rule in flower_rules},
    }


def our_services() -> dict[str, dict[str, Any]]:
    """Services of the compose file that run our image, by name."""
    services = compose()["services"].items()
    return {name: service for name, service in services if service["image"] == OUR_IMAGE}


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of the workloads, and the pods that they start."""
    for document in documents("kubernetes-complete.yaml"):
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def our_containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Containers of our image, each with the name of its workload."""
    for pod, spec in pod_specs():
        for container in spec["containers"]:
            if container["image"] == OUR_IMAGE:
                yield pod, container


def kubernetes(kind: str, name: str = "weavloader") -> dict[str, Any]:
    """The one document of a kind and name."""
    found = [
        document
        for document in documents("kubernetes-complete.yaml")
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    ]
    assert len(found) == 1, f"{kind} {name}"
    return found[0]


def workloads() -> list[dict[str, Any]]:
    """Specifications of all workloads."""
    kinds = ("Deployment", "StatefulSet")
    return [d["spec"] for d in documents("kubernetes-complete.yaml") if d["kind"] in kinds]
