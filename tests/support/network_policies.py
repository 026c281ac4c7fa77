"""What a cluster's network lets through by its NetworkPolicies, worked out from the files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, and the labels that policies ask for."""

    name: str
    labels: Labels
    namespace: Labels


@dataclass(frozen=True, slots=True)
class Address:
    """Something outside of the cluster, or a node of it."""

    name: str
    ip: str


End = Pod | Address


def passes(
    policies: Sequence[Mapping[str, Any]], source: End, target: End, port: int, protocol: str
) -> bool:
    """Whether a connection may be opened: its source may leave, and its target lets it in."""
    return _allows(policies, "Egress", source, target, port, protocol) and _allows(
        policies, "Ingress", target, source, port, protocol
    )


def matches(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a selector takes these labels; an empty one takes all.

    Raises:
        ValueError: It has an operator other than ``In``.
    """
    for asked in selector.get("matchExpressions", []):
        if asked["operator"] != "In":
            raise ValueError(f"operator {asked['operator']} is not known here")
        if labels.get(asked["key"]) not in asked["values"]:
            return False
    wanted: Labels = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _allows(
    policies: Sequence[Mapping[str, Any]],
    direction: str,
    subject: End,
    peer: End,
    port: int,
    protocol: str,
) -> bool:
    if isinstance(subject, Address):
        return True  # policies are about pods
    of_subject = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and policy["metadata"]["namespace"] == subject.namespace["kubernetes.io/metadata.name"]
        and matches(policy["spec"]["podSelector"], subject.labels)
    ]
    if not of_subject:
        return True
    side = "to" if direction == "Egress" else "from"
    return any(
        _has_port(rule.get("ports"), port, protocol)
        and any(_is_peer(each, peer, subject) for each in rule.get(side) or [{}])
        for spec in of_subject
        for rule in spec.get(direction.lower(), [])
    )


def _has_port(ports: Sequence[Mapping[str, Any]] | None, port: int, protocol: str) -> bool:
    if not ports:
        return True
    return any(
        each.get("protocol", "TCP") == protocol and each.get("port", port) == port for each in ports
    )


def _is_peer(asked: Mapping[str, Any], peer: End, subject: Pod) -> bool:
    if block := asked.get("ipBlock"):
        if isinstance(peer, Pod):
            return False  # the pods' addresses are private, which every block excepts
        within = [ip_address(peer.ip) in ip_network(n) for n in block.get("except", [])]
        return ip_address(peer.ip) in ip_network(block["cidr"]) and not any(within)
    if not asked:
        return True
    if isinstance(peer, Address):
        return False
    if "namespaceSelector" in asked:
        if not matches(asked["namespaceSelector"], peer.namespace):
            return False
    elif peer.namespace != subject.namespace:
        return False
    return matches(asked.get("podSelector", {}), peer.labels)
