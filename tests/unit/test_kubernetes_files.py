"""The Kubernetes manifests agree with the settings, the commands and each other."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from commands.cli import cli
from commands.roles import ROLES
from job_system.celery_config import TIME_LIMIT
from tests.support.deployment_files import (
    DEFAULTS,
    KNOWN,
    NOT_SETTINGS,
    OF_ALERTMANAGER,
    OUR_IMAGE,
    ROOT,
    compose,
    documents,
    kubernetes,
    our_containers,
    pod_specs,
    served,
    workloads,
)
from tools import operators
from weavloader import redis_keys


def test_every_variable_of_kubernetes_is_a_setting() -> None:
    given = set(kubernetes("ConfigMap")["data"]) | set(kubernetes("Secret")["stringData"])
    for _, container in our_containers():
        given |= {variable["name"] for variable in container["env"]}
    assert given - NOT_SETTINGS <= KNOWN


def test_every_command_of_kubernetes_exists() -> None:
    for pod, container in our_containers():
        assert container["command"][:2] == ["python", "main.py"]
        assert container["command"][2] in cli.commands, pod
        probe = container.get("startupProbe", {}).get("exec")
        if probe:
            assert probe["command"] == ["python", "main.py", "check", "--role", pod]
            assert pod in ROLES


def test_every_role_has_a_deployment_and_the_scheduler_one_pod() -> None:
    names = {name for name, _ in pod_specs()}
    assert set(ROLES) <= names
    assert kubernetes("Deployment", "scheduler")["spec"]["replicas"] == 1


def test_compose_and_kubernetes_use_the_same_images() -> None:
    of_compose = {service["image"] for service in compose()["services"].values()}
    of_kubernetes = {c["image"] for _, spec in pod_specs() for c in spec["containers"]}
    assert of_kubernetes <= of_compose


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
    for name in ("metrics", "web", "flower"):
        ours = kubernetes("NetworkPolicy", name)["spec"]
        let_in = [each["port"] for rule in ours["ingress"] for each in rule["ports"]]
        assert let_in == [DEFAULTS[f"{name}_port"]]
    dialled = {}
    for name in ("weavloader", "metrics", "models-and-store"):
        for rule in kubernetes("NetworkPolicy", name)["spec"]["egress"]:
            app = rule["to"][0]["podSelector"]["matchLabels"]["app"]
            dialled[app] = [each["port"] for each in rule["ports"]]
    assert dialled == {
        "redis": [redis_port],
        "weaviate": [DEFAULTS["weaviate_port"], DEFAULTS["weaviate_grpc_port"]],
        "triton": [DEFAULTS["triton_port"]],
        "flower": [DEFAULTS["flower_port"]],
    }


def test_every_port_is_open_to_named_peers_only() -> None:
    policies = [
        *of_operators("NetworkPolicy"),
        *(d for d in documents("kubernetes-complete.yaml") if d["kind"] == "NetworkPolicy"),
    ]
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule.get("from"), policy["metadata"]["name"]
            for peer in rule["from"]:
                (selector,) = peer.values()
                assert selector, policy["metadata"]["name"]
    flower = kubernetes("NetworkPolicy", "flower")["spec"]["ingress"][0]["from"]
    metrics = kubernetes("NetworkPolicy", "metrics")["spec"]["podSelector"]
    assert {"podSelector": metrics} in flower


def selected(selector: dict[str, Any]) -> set[str]:
    """Names of the workloads whose pods a selector matches."""
    found = set()
    for spec in workloads():
        labels = spec["template"]["metadata"]["labels"]
        named = all(labels[e["key"]] in e["values"] for e in selector.get("matchExpressions", []))
        if named and selector.get("matchLabels", {}).items() <= labels.items():
            found.add(labels["app"])
    return found


def test_the_store_and_the_models_let_in_whom_the_policies_let_ask() -> None:
    asking = selected(kubernetes("NetworkPolicy", "models-and-store")["spec"]["podSelector"])
    assert asking == {"processor", "moderator", "cleaner", "metrics", "web"}
    for name in ("weaviate", "triton"):
        (source,) = kubernetes("NetworkPolicy", name)["spec"]["ingress"][0]["from"]
        assert selected(source["podSelector"]) == asking


def test_only_those_who_ask_sage_have_a_way_out() -> None:
    out = {
        app
        for document in documents("kubernetes-complete.yaml")
        if document["kind"] == "NetworkPolicy"
        for rule in document["spec"].get("egress", [])
        if "ipBlock" in rule.get("to", [{}])[0]
        for app in selected(document["spec"]["podSelector"])
    }
    assert out == {"processor", "moderator", "cleaner", "triton"}


def test_containers_get_only_the_secrets_that_they_need() -> None:
    holders: dict[str, set[str]] = {}
    for pod, spec in pod_specs():
        for container in spec["containers"]:
            assert not [each for each in container.get("envFrom", []) if "secretRef" in each], pod
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    words = container.get("command", [pod])
                    role = [word for word in words if not word.startswith("--")][-1]
                    holders.setdefault(reference["key"], set()).add(role)
    assert holders.pop("REDIS_PASSWORD") == {*ROLES, "-c"}
    assert holders == {
        "SAGE_USER": {"processor"},
        "SAGE_PASS": {"processor"},
        "OPENAI_API_KEY": {"processor"},
        "OTEL_EXPORTER_OTLP_HEADERS": {"processor", "moderator", "cleaner"},
        "FLOWER_BASIC_AUTH": {"metrics", "flower", "web"},
        "WEAVIATE_API_KEY": {"processor", "cleaner", "web"},
        "HF_TOKEN": {"triton"},
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


def test_a_service_finds_pods_of_its_name() -> None:
    names = {name for name, _ in pod_specs()}
    for document in documents("kubernetes-complete.yaml"):
        if document["kind"] == "Service":
            assert document["spec"]["selector"]["app"] in names


def test_policies_and_budgets_name_pods_that_exist() -> None:
    found = 0
    for document in documents("kubernetes-complete.yaml"):
        if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            spec = document["spec"]
            selector = spec.get("podSelector", spec.get("selector"))
            of_others = {"weavloader-metrics", "weavloader-pages"} & {
                *selector.get("matchLabels", {})
            }
            assert selected(selector) or of_others, document["metadata"]
            found += 1
    assert found > 5


def test_only_pods_of_ours_reach_redis() -> None:
    part = {"part": "weavloader"}
    for spec in workloads():
        ours = spec["template"]["spec"]["containers"][0]["image"] == OUR_IMAGE
        assert (part.items() <= spec["template"]["metadata"]["labels"].items()) is ours
    policy = next(
        d
        for d in documents("kubernetes-complete.yaml")
        if (d["kind"], d["metadata"]["name"]) == ("NetworkPolicy", "redis")
    )
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": part}}]


def of_operators(kind: str) -> list[dict[str, Any]]:
    """Documents of kubernetes-operators.yaml of one kind."""
    return [each for each in documents("kubernetes-operators.yaml") if each["kind"] == kind]


def test_operators_scale_and_watch_what_exists() -> None:
    pods = {name for name, _ in pod_specs()}
    (scaled,) = of_operators("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] in pods
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    assert trigger["listName"] == redis_keys.IMAGE_QUEUE
    assert trigger["address"].split(".")[0] in pods
    (pod_monitor,) = of_operators("PodMonitor")
    servers, _ = of_operators("ServiceMonitor")
    for monitor in (pod_monitor, servers):
        assert set(monitor["spec"]["selector"]["matchExpressions"][0]["values"]) <= pods
    named = {p.get("name") for _, c in our_containers() for p in c.get("ports", [])}
    assert pod_monitor["spec"]["podMetricsEndpoints"][0]["port"] in named


def test_prometheus_gives_its_targets_the_jobs_that_the_alerts_ask_for() -> None:
    (pod_monitor,) = of_operators("PodMonitor")
    servers, redis = of_operators("ServiceMonitor")
    endpoints = (pod_monitor["spec"]["podMetricsEndpoints"][0], redis["spec"]["endpoints"][0])
    jobs = {each["relabelings"][0]["replacement"] for each in endpoints}
    assert all(each["relabelings"][0]["targetLabel"] == "job" for each in endpoints)
    assert servers["spec"]["jobLabel"] == "app"
    for name in servers["spec"]["selector"]["matchExpressions"][0]["values"]:
        jobs.add(kubernetes("Service", name)["metadata"]["labels"]["app"])
    asked = re.findall(r'job=~?"([\w|]+)"', (ROOT / "metrics/artifacts/alerts.yml").read_text())
    assert {job for text in asked for job in text.split("|")} == jobs
    of_compose = documents("metrics/artifacts/prometheus.yml")[0]["scrape_configs"]
    assert {each["job_name"] for each in of_compose} == jobs


def test_alerts_script_and_dashboard_are_what_their_tool_writes() -> None:
    assert (ROOT / "kubernetes-operators.yaml").read_text() == operators.text()
    (rule,) = of_operators("PrometheusRule")
    assert rule["spec"] == documents("metrics/artifacts/alerts.yml")[0]
    _, dashboard = of_operators("ConfigMap")
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    written = json.loads(dashboard["data"]["weavloader.json"])
    assert written == json.loads((ROOT / "metrics/artifacts/grafana-dashboard.json").read_text())
    # kubectl keeps what it applied in an annotation, which must be smaller than this.
    assert len(dashboard["data"]["weavloader.json"]) < 250_000


def test_the_alertmanager_of_kubernetes_is_that_of_compose() -> None:
    (secret,) = of_operators("Secret")
    assert set(secret["stringData"]) == OF_ALERTMANAGER
    assert set(secret["stringData"].values()) <= {"", "REPLACE_ME"}
    images = {
        container["image"]
        for deployment in of_operators("Deployment")
        for container in deployment["spec"]["template"]["spec"]["containers"]
    }
    assert images <= {service["image"] for service in compose()["services"].values()}


def test_pods_of_the_operators_file_have_no_rights_and_a_policy() -> None:
    policed = {
        policy["spec"]["podSelector"]["matchLabels"]["app"]
        for policy in of_operators("NetworkPolicy")
    }
    for deployment in of_operators("Deployment"):
        template = deployment["spec"]["template"]
        assert template["metadata"]["labels"]["app"] in policed
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
