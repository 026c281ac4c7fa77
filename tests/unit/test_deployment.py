"""The deployment files agree with the settings, the commands and each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import pytest
import yaml
from flower.urls import handlers as flower_handlers

from commands.group import cli
from commands.roles import ROLES
from job_system.config import TIME_LIMIT
from metrics import server as metrics_server
from weavloader import keys
from weavloader.settings import Settings
from web.server import ROUTES as PAGES

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OUR_IMAGE = "weavloader:0.1.0"
KNOWN = {name.upper() for name in Settings.model_fields}
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
SECRETS = {"SAGE_PASS", "REDIS_PASSWORD", "REDISCLI_AUTH", "FLOWER_BASIC_AUTH",
           "WEAVIATE_API_KEY", "HF_TOKEN"}  # fmt: skip
NOT_SETTINGS = {
    "REDIS_PASSWORD",  # of which the broker's URL is made
    "HF_TOKEN",  # read by Triton's models
    "REDIS_INSIDE",  # read by supervisord.conf
    "PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE",
}  # fmt: skip
NOT_IN_THE_IMAGE = {"benchmarks", "demo", "tests", "inference/preview", "inference/serving", "docs"}


@cache
def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / name).read_text()))


def compose() -> dict[str, Any]:
    return documents("docker-compose.yml")[0]


@cache
def served() -> dict[int, set[str]]:
    """The paths that each of our servers knows, by its port."""
    metrics_rules = metrics_server.routes(MagicMock(), MagicMock())
    flower_rules = (rule for rule in flower_handlers if isinstance(rule, tuple))
    return {
        DEFAULTS["metrics_port"]: {rule.regex.pattern.rstrip("$") for rule in metrics_rules},
        DEFAULTS["web_port"]: set(PAGES),
        DEFAULTS["flower_port"]: {rule[0] for rule in flower_rules},
    }


def our_services() -> dict[str, dict[str, Any]]:
    services = compose()["services"].items()
    return {name: service for name, service in services if service["image"] == OUR_IMAGE}


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents("kubernetes-complete.yaml"):
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def our_containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for pod, spec in pod_specs():
        for container in spec["containers"]:
            if container["image"] == OUR_IMAGE:
                yield pod, container


def kubernetes(kind: str, name: str = "weavloader") -> dict[str, Any]:
    found = [
        document
        for document in documents("kubernetes-complete.yaml")
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    ]
    assert len(found) == 1, f"{kind} {name}"
    return found[0]


def test_every_variable_of_the_example_is_a_setting() -> None:
    names = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.M))
    assert names
    assert names - NOT_SETTINGS <= KNOWN


def test_the_example_holds_no_secret() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(line.endswith("=") for line in lines if line.split("=")[0] in SECRETS)


def test_every_variable_of_the_image_is_a_setting_or_pythons_own() -> None:
    block = re.search(r"^ENV (.*?)(?<!\\)\n", DOCKERFILE, re.M | re.S)
    assert block is not None
    names = set(re.findall(r"(\w+)=", block[1]))
    assert names - NOT_SETTINGS <= KNOWN


def test_every_variable_that_supervisord_reads_is_set_by_the_image() -> None:
    read = re.findall(r"%\(ENV_(\w+)\)s", (ROOT / "supervisord.conf").read_text())
    assert read
    for name in read:
        assert f"{name}=" in DOCKERFILE


def test_every_variable_of_the_compose_services_is_a_setting() -> None:
    for service in our_services().values():
        assert set(service["environment"]) - NOT_SETTINGS <= KNOWN


def test_every_variable_of_kubernetes_is_a_setting() -> None:
    given = set(kubernetes("ConfigMap")["data"]) | set(kubernetes("Secret")["stringData"])
    for _, container in our_containers():
        given |= {variable["name"] for variable in container["env"]}
    assert given - NOT_SETTINGS <= KNOWN


def test_every_variable_that_compose_asks_for_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.M))


def test_every_command_of_kubernetes_exists() -> None:
    for pod, container in our_containers():
        assert container["command"][:2] == ["python", "main.py"]
        assert container["command"][2] in cli.commands, pod
        probe = container.get("startupProbe", {}).get("exec")
        if probe:
            assert probe["command"] == ["python", "main.py", "check", "--role", pod]
            assert pod in ROLES


def test_every_program_of_the_all_in_one_container_is_a_role_or_redis() -> None:
    text = (ROOT / "supervisord.conf").read_text()
    programs = dict(re.findall(r"^\[program:(\w+)\]\n(?:.*\n)*?command=(.*)$", text, re.M))
    assert programs.pop("redis").startswith("redis-server ")
    assert programs == {role: f"python main.py {role}" for role in ROLES}


def test_every_role_has_a_deployment_and_the_scheduler_one_pod() -> None:
    names = {name for name, _ in pod_specs()}
    assert set(ROLES) <= names
    assert kubernetes("Deployment", "scheduler")["spec"]["replicas"] == 1


def test_every_command_of_compose_exists() -> None:
    for name, service in our_services().items():
        if name != "weavloader":  # which has the image's own command
            found = re.findall(r"python main\.py (\w+)", service["command"][-1])
            assert found == ["metrics", name]
            assert set(found) <= set(ROLES)


def test_the_image_holds_every_module_that_its_roles_import() -> None:
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
    copied = " ".join(copies).split()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for module in tracked("*.py"):
        folders = {str(parent) for parent in module.parents}
        if not folders & NOT_IN_THE_IMAGE and "_repository" not in str(module):
            assert any(module.match(name) or name in folders for name in copied), module
    for name in copied:
        assert f"!{name.split('/')[0]}" in ignored, f"{name} never reaches the build"


def tracked(pattern: str) -> list[Path]:
    """Files of this project, by a pattern of git's."""
    command = ["git", "ls-files", pattern]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def test_the_image_holds_neither_tests_nor_the_demo() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not {"!tests", "!demo", "!benchmarks", "!.env", "!.git"} & set(ignored)


def test_the_image_runs_as_a_user_without_rights_and_asks_its_own_health() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\d+):\d+$", final, re.M)
    assert user is not None and int(user[1]) >= 1000
    asked = re.search(r"http://localhost:(\d+)(/[\w/]*)", final.partition("HEALTHCHECK")[2])
    assert asked is not None
    assert int(asked[1]) == DEFAULTS["metrics_port"]
    assert asked[2] in served()[int(asked[1])]
    assert re.findall(r"^EXPOSE (\d+)$", final, re.M) == [asked[1]]


def test_no_compiler_is_in_the_image() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert not re.search(r"build-essential|\bgcc\b|\bg\+\+|python3-dev", final)


def test_every_image_is_pinned() -> None:
    images = re.findall(r"image: (\S+)", (ROOT / "docker-compose.yml").read_text())
    images += re.findall(r"image: (\S+)", (ROOT / "kubernetes-complete.yaml").read_text())
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(images) > 10
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert re.search(r"\d", tag), image
        assert tag != "latest"


def test_compose_and_kubernetes_use_the_same_images() -> None:
    of_compose = {service["image"] for service in compose()["services"].values()}
    of_kubernetes = {c["image"] for _, spec in pod_specs() for c in spec["containers"]}
    for image in of_kubernetes & {i for i in of_kubernetes if i.startswith(("weav", "cr."))}:
        assert image in of_compose


def test_compose_publishes_the_ports_of_the_settings_on_loopback_only() -> None:
    published = compose()["services"]["weavloader"]["ports"]
    ports = [DEFAULTS[f"{name}_port"] for name in ("metrics", "web", "flower")]
    assert published == [f"127.0.0.1:{port}:{port}" for port in ports]
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_services_that_others_dial_listen_where_the_settings_say() -> None:
    for name in ("triton", "weaviate"):
        port = DEFAULTS[f"{name}_port"]
        service = kubernetes("Service", name)
        assert port in [each["port"] for each in service["spec"]["ports"]]


def test_ports_of_our_pods_and_their_services_are_those_of_the_settings() -> None:
    for name in ("metrics", "web", "flower"):
        port = DEFAULTS[f"{name}_port"]
        assert [each["port"] for each in kubernetes("Service", name)["spec"]["ports"]] == [port]
    for pod, container in our_containers():
        role = container["command"][-1]
        for each in container.get("ports", []):
            assert each["containerPort"] == DEFAULTS[f"{role}_port"], pod


def test_policies_let_through_the_ports_of_the_settings_and_no_other() -> None:
    redis_port = urlsplit(DEFAULTS["celery_broker_url"].get_secret_value()).port
    ours = kubernetes("NetworkPolicy")["spec"]
    let_in = [each["port"] for rule in ours["ingress"] for each in rule["ports"]]
    assert let_in == [DEFAULTS[f"{name}_port"] for name in ("metrics", "web", "flower")]
    dialled = {
        rule["to"][0]["podSelector"]["matchLabels"]["app"]: [p["port"] for p in rule["ports"]]
        for rule in ours["egress"]
        if "podSelector" in rule["to"][0]
    }
    assert dialled == {
        "redis": [redis_port],
        "weaviate": [DEFAULTS["weaviate_port"], DEFAULTS["weaviate_grpc_port"]],
        "triton": [DEFAULTS["triton_port"]],
        "flower": [DEFAULTS["flower_port"]],
    }


def test_prometheus_annotations_name_the_port_of_the_metrics() -> None:
    found = 0
    for document in documents("kubernetes-complete.yaml"):
        if document["kind"] == "Deployment":
            notes = document["spec"]["template"]["metadata"].get("annotations", {})
            port = notes.get("prometheus.io/port")
            assert port in (None, str(DEFAULTS["metrics_port"]))
            found += port is not None
    assert found == 4


def test_clients_find_every_triton_by_its_own_address() -> None:
    assert kubernetes("Service", "triton")["spec"]["clusterIP"] == "None"


def test_every_probe_asks_for_what_is_served() -> None:
    for pod, container in our_containers():
        for kind in ("livenessProbe", "readinessProbe"):
            asked = container.get(kind, {}).get("httpGet")
            if asked:
                assert asked["path"] in served()[asked["port"]], pod


@pytest.mark.parametrize("role", ["processor", "moderator", "cleaner"])
def test_kubernetes_lets_the_longest_task_end(role: str) -> None:
    assert dict(pod_specs())[role]["terminationGracePeriodSeconds"] > TIME_LIMIT


def test_compose_lets_the_longest_task_end() -> None:
    for service in our_services().values():
        assert int(service["stop_grace_period"].removesuffix("m")) * 60 > TIME_LIMIT


def test_supervisord_lets_the_longest_task_end() -> None:
    text = (ROOT / "supervisord.conf").read_text()
    for role in ("processor", "moderator", "cleaner"):
        section = text.partition(f"[program:{role}]")[2].partition("[program:")[0]
        wait = re.search(r"stopwaitsecs=(\d+)", section)
        assert wait is not None and int(wait[1]) > TIME_LIMIT


def test_workers_and_the_metrics_server_beside_them_see_each_others_processes() -> None:
    for pod, spec in pod_specs():
        commands = [c["command"][-1] for c in spec["containers"] if c["image"] == OUR_IMAGE]
        if len(commands) > 1:
            assert commands[1] == "metrics"
            assert spec["shareProcessNamespace"], pod
            mounts = [c["volumeMounts"] for c in spec["containers"]]
            assert mounts[0] == mounts[1]


def test_pods_have_no_rights_a_read_only_root_and_bounded_memory() -> None:
    for pod, spec in pod_specs():
        assert spec["securityContext"]["runAsNonRoot"], pod
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", pod
        assert spec["enableServiceLinks"] is False, "TRITON_PORT would become tcp://…"
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True, pod
            assert rights["capabilities"] == {"drop": ["ALL"]}, pod
            assert "memory" in container["resources"]["limits"], pod


def test_no_secret_stands_in_clear() -> None:
    for secret in ("weavloader", "triton"):
        for value in kubernetes("Secret", secret)["stringData"].values():
            assert set(value.split(":")) == {"REPLACE_ME"}
    assert not SECRETS & set(kubernetes("ConfigMap")["data"])
    for _, spec in pod_specs():
        for variable in (v for c in spec["containers"] for v in c.get("env", [])):
            if variable["name"] in SECRETS:
                assert "secretKeyRef" in variable["valueFrom"]
    for service in compose()["services"].values():
        for name in SECRETS & set(service.get("environment", {})):
            assert service["environment"][name].startswith("${")


def test_every_compose_service_restarts_and_rotates_its_log() -> None:
    for name, service in compose()["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"]["max-size"], name
        assert service["mem_limit"], name


def test_every_claimed_volume_and_configuration_exists() -> None:
    volumes = compose()["volumes"]
    for service in compose()["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in volumes


def test_a_service_finds_pods_of_its_name() -> None:
    names = {name for name, _ in pod_specs()}
    for document in documents("kubernetes-complete.yaml"):
        if document["kind"] == "Service":
            assert document["spec"]["selector"]["app"] in names


def test_policies_and_budgets_name_pods_that_exist() -> None:
    labels = [spec["template"]["metadata"]["labels"] for spec in workloads()]
    found = 0
    for document in documents("kubernetes-complete.yaml"):
        if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            spec = document["spec"]
            wanted = spec.get("podSelector", spec.get("selector", {})).get("matchLabels", {})
            assert any(wanted.items() <= each.items() for each in labels), document["metadata"]
            found += 1
    assert found > 5


def test_only_pods_of_ours_reach_redis() -> None:
    part = {"part": "weavloader"}
    for spec in workloads():
        ours = spec["template"]["spec"]["containers"][0]["image"] == OUR_IMAGE
        assert (part.items() <= spec["template"]["metadata"]["labels"].items()) is ours
    policy = next(d for d in documents("kubernetes-complete.yaml")
                  if (d["kind"], d["metadata"]["name"]) == ("NetworkPolicy", "redis"))  # fmt: skip
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": part}}]


def workloads() -> list[dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet")
    return [d["spec"] for d in documents("kubernetes-complete.yaml") if d["kind"] in kinds]


def test_operators_scale_and_watch_what_exists() -> None:
    pods = {name for name, _ in pod_specs()}
    by_kind = {d["kind"]: d["spec"] for d in documents("kubernetes-operators.yaml")}
    scaled = by_kind["ScaledObject"]
    assert scaled["scaleTargetRef"]["name"] in pods
    trigger = scaled["triggers"][0]["metadata"]
    assert trigger["listName"] == keys.IMAGE_QUEUE
    assert trigger["address"].split(".")[0] in pods
    for kind in ("PodMonitor", "ServiceMonitor"):
        assert set(by_kind[kind]["selector"]["matchExpressions"][0]["values"]) <= pods
    named = {p.get("name") for _, c in our_containers() for p in c.get("ports", [])}
    assert by_kind["PodMonitor"]["podMetricsEndpoints"][0]["port"] in named


def test_prometheus_scrapes_services_of_compose() -> None:
    jobs = documents("metrics/artifacts/prometheus.yml")[0]["scrape_configs"]
    (discovered,) = jobs[0]["dns_sd_configs"]
    assert set(discovered["names"]) == set(our_services()) - {"weavloader"}
    assert discovered["port"] == DEFAULTS["metrics_port"]
    for job in jobs:
        for target in job["static_configs"][0]["targets"]:
            assert target.split(":")[0] in compose()["services"]


@pytest.mark.parametrize("given", [True, False], ids=["with", "without"])
def test_docker_compose_accepts_the_file_only_with_credentials(given: bool, tmp_path: Path) -> None:
    client = shutil.which("docker-compose")
    if client is None:
        pytest.skip("docker-compose is missing: apt-get install docker-compose")
    (tmp_path / "empty").write_text("")  # instead of a developer's own .env
    credentials = {"SAGE_USER": "a", "SAGE_PASS": "b"} if given else {}
    done = subprocess.run(
        [
            client,
            "--env-file",
            str(tmp_path / "empty"),
            "-f",
            "docker-compose.yml",
            "--profile",
            "scale",
            "--profile",
            "gpu",
            "config",
            "--quiet",
        ],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **credentials},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode == 0) is given, done.stderr
    assert given or "SAGE" in done.stderr
