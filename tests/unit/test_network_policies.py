"""Who may open a connection to whom by the Kubernetes files' policies: all of it, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.deployment_files import documents
from tests.support.network_policies import Address, End, Pod, matches, passes

FILES = ("kubernetes-complete.yaml", "kubernetes-operators.yaml")
DOCUMENTS = [document for name in FILES for document in documents(name)]
POLICIES = [document for document in DOCUMENTS if document["kind"] == "NetworkPolicy"]
NAMESPACE = {"kubernetes.io/metadata.name": "weavloader"}

OURS = {"processor", "moderator", "cleaner", "metrics", "web", "flower", "scheduler", "stream"}
WITH_METRICS = {"processor", "moderator", "cleaner", "metrics"}
WITH_MODELS = WITH_METRICS | {"web"}
# Pods and namespaces that an operator lets in by a label, a stranger beside ours, another's pod.
PROMETHEUS = {"prometheus", "prometheus-beside-ours"}
VISITORS = {"ingress", "ingress-beside-ours"}
ELSEWHERE = {"prometheus", "ingress", "keda", "stranger", "private-network", "node-of-the-cluster"}
MAIL_OR_HOOK = (25, 80, 443, 587)

# Port by port: to whom, and from whom. Names are looked up by all, which is not in the table.
ALLOWED = {
    ("redis", 6379): OURS | {"redis-exporter", "keda"},
    ("weaviate", 8080): WITH_MODELS,
    ("weaviate", 50051): WITH_MODELS,
    ("weaviate", 2112): PROMETHEUS,
    ("triton", 8001): WITH_MODELS,
    ("triton", 8002): PROMETHEUS,
    ("flower", 5555): VISITORS | WITH_METRICS,
    ("web", 8081): VISITORS,
    ("redis-exporter", 9121): PROMETHEUS,
    ("alertmanager", 9093): PROMETHEUS,
    **{(app, 8080): PROMETHEUS for app in WITH_METRICS},
    **{("sage", port): {"alertmanager"} for port in MAIL_OR_HOOK},
    ("sage", 443): {"processor", "moderator", "cleaner", "triton", "alertmanager"},
    # A receiver of alerts may be in the cluster, or in the network around it.
    **{(name, port): {"alertmanager"} for name in ELSEWHERE for port in MAIL_OR_HOOK},
}


def pods() -> list[Pod]:
    """Every workload's pod, and pods of others."""
    found = [
        Pod(document["metadata"]["name"], _labels(document), NAMESPACE)
        for document in DOCUMENTS
        if document["kind"] in ("Deployment", "StatefulSet")
    ]
    metrics, pages = {"weavloader-metrics": "allowed"}, {"weavloader-pages": "allowed"}
    return [
        *found,
        Pod("prometheus", {}, _namespace("monitoring") | metrics),
        Pod("prometheus-beside-ours", metrics, NAMESPACE),
        Pod("ingress", {}, _namespace("ingress") | pages),
        Pod("ingress-beside-ours", pages, NAMESPACE),
        Pod("keda", {}, _namespace("keda")),
        Pod("stranger-beside-ours", {"app": "stranger"}, NAMESPACE),
        # Labels of its own choice in its own namespace give a pod nothing.
        Pod("stranger", {"app": "web", "part": "weavloader", **metrics, **pages}, _namespace("x")),
    ]


def _labels(document: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = document["spec"]["template"]["metadata"]["labels"]
    return labels


def _namespace(name: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name}


ENDS: list[End] = [
    *pods(),
    Address("sage", "130.202.1.1"),
    Address("metadata-of-the-cloud", "169.254.169.254"),
    Address("node-of-the-cluster", "10.0.0.1"),
    Address("private-network", "192.168.1.1"),
]
OWN = {end.name for end in ENDS if isinstance(end, Pod) and end.namespace == NAMESPACE}


def ports() -> set[int]:
    """Every port that a container or a Service names, and those that attackers try first."""
    named = {22, 53, 6443, 8000, 8443, 10250, *MAIL_OR_HOOK}
    for document in DOCUMENTS:
        for each in document["spec"].get("ports", []) if document["kind"] == "Service" else []:
            named.add(each["port"])
        if document["kind"] in ("Deployment", "StatefulSet"):
            for container in document["spec"]["template"]["spec"]["containers"]:
                named |= {each["containerPort"] for each in container.get("ports", [])}
    return named


@pytest.mark.parametrize("target", ENDS, ids=lambda end: end.name)
def test_a_port_is_reached_by_those_who_need_it_and_by_nobody_else(target: End) -> None:
    for port in ports() - {53}:
        seen = {
            source.name
            for source in ENDS
            if source is not target
            and {source.name, target.name} & OWN
            and passes(POLICIES, source, target, port, "TCP")
        }
        expected = ALLOWED.get((target.name, port), set())
        assert seen == expected - {target.name}, f"{target.name}:{port}"


def test_the_table_names_only_what_there_is() -> None:
    names = {end.name for end in ENDS}
    for (target, port), sources in ALLOWED.items():
        assert {target, *sources} <= names
        assert port in ports()


def test_every_pod_of_the_namespace_is_isolated_in_both_directions() -> None:
    for pod in (end for end in ENDS if isinstance(end, Pod) and end.name in OWN):
        for direction in ("Ingress", "Egress"):
            assert [
                policy
                for policy in POLICIES
                if direction in policy["spec"]["policyTypes"]
                and matches(policy["spec"]["podSelector"], pod.labels)
            ], f"{pod.name} {direction}"


def test_names_are_looked_up_by_all_and_nothing_else_leaves_without_a_connection() -> None:
    (anywhere,) = (end for end in ENDS if end.name == "private-network")
    for pod in (end for end in ENDS if isinstance(end, Pod) and end.name in OWN):
        open_ports = {p for p in ports() if passes(POLICIES, pod, anywhere, p, "UDP")}
        assert open_ports == {53}, pod.name
