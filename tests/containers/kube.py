"""``podman play kube`` with the real manifests: what the kubelet does and podman does not, done."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from demo.servers.waiting import wait_until
from tests.containers.engine import ROOT, Engine, without_digests
from tests.containers.images import PREVIEW

NETWORK = "kube"
CLIENT = "replay"
SECRETS = {
    "SAGE_USER": "sage",
    "SAGE_PASS": "replayed",
    "REDIS_PASSWORD": "tested",
    "FLOWER_BASIC_AUTH": "admin:tested",
}
_MANIFEST = ROOT / "kubernetes-complete.yaml"
_WORKLOADS = ("Deployment", "StatefulSet")


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a container of the manifest; what asks over the network does so from ``CLIENT``.

    Attributes:
        kind: ``startup``, ``readiness`` or ``liveness``.
        asks: ``exec``, ``httpGet`` or ``tcpSocket``, and its details, as the manifest has them.
    """

    workload: str
    container: str
    kind: str
    asks: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.workload}-{self.container}-{self.kind}"

    def command(self) -> list[str]:
        """The container that asks, and what is run in it."""
        if "exec" in self.asks:
            return [f"{self.workload}-pod-0-{self.container}", *self.asks["exec"]["command"]]
        if "httpGet" in self.asks:
            asked = self.asks["httpGet"]
            url = f"http://{self.workload}:{asked['port']}{asked['path']}"
            return [CLIENT, "python", "-c", f"import httpx; httpx.get({url!r}).raise_for_status()"]
        address = (self.workload, self.asks["tcpSocket"]["port"])
        return [CLIENT, "python", "-c", f"import socket; socket.create_connection({address!r}, 5)"]


@dataclass(frozen=True, slots=True)
class Kube:
    """Workloads of the manifest, each a play of its own, found by the name of its Service.

    podman knows no StatefulSet (played as a Deployment with its claims), no GPU (Triton serves
    the preview models), no Service (a name on the network instead) and no policy. What is empty
    in each pod is one volume for all of them, by its name, and belongs to root.

    Attributes:
        settings: Put over those of the ConfigMap.
    """

    engine: Engine
    settings: Mapping[str, str]

    def play(self, name: str) -> None:
        """Start a workload."""
        file = self.engine.folder / f"{name}.yaml"
        documents = [self._settings(), *_playable(_workload(name))]
        text = "\n---\n".join(json.dumps(document) for document in documents)
        # The kubelet fills in $(NAME).
        file.write_text(text.replace("$(REDIS_PASSWORD)", SECRETS["REDIS_PASSWORD"]))
        network = f"{NETWORK}:alias={name}"
        self.engine.podman("play", "kube", "--network", network, str(file))

    def wait_for(self, probe: Probe, seconds: float) -> None:
        """Ask what the kubelet would until it passes.

        Raises:
            AssertionError: It did not in time, with what it said last.
        """
        said = [""]

        def passes() -> bool:
            try:
                said[0] = self.engine.podman("exec", *probe.command())
            except AssertionError as error:
                said[0] = str(error)
                return False
            return True

        try:
            wait_until(passes, f"{probe} passes", seconds)
        except AssertionError as error:
            log = self.engine.log(f"{probe.workload}-pod-0-{probe.container}")
            raise AssertionError(f"{error}\n{said[0]}\n{log[-4000:]}") from None

    def create_secret(self) -> None:
        """Fill in the secret, as podman 4.3 wants one: JSON, values in base 64."""
        values = {name: base64.b64encode(v.encode()).decode() for name, v in SECRETS.items()}
        file = self.engine.folder / "secret.json"
        file.write_text(json.dumps(values))
        self.engine.podman("secret", "create", "weavloader", str(file))
        file.unlink()

    def _settings(self) -> dict[str, Any]:
        (found,) = (each for each in _documents() if each["kind"] == "ConfigMap")
        return {**found, "data": {**found["data"], **self.settings}}


def workloads() -> list[str]:
    """Names of all workloads of the manifest."""
    return [each["metadata"]["name"] for each in _documents() if each["kind"] in _WORKLOADS]


def probes() -> list[Probe]:
    """Every probe of the manifest."""
    return [
        Probe(name, container["name"], kind, container[f"{kind}Probe"])
        for name in workloads()
        for container in _workload(name)["spec"]["template"]["spec"]["containers"]
        for kind in ("startup", "readiness", "liveness")
        if f"{kind}Probe" in container
    ]


def _documents() -> Iterator[dict[str, Any]]:
    return iter(yaml.safe_load_all(without_digests(_MANIFEST.read_text())))


def _workload(name: str) -> dict[str, Any]:
    found = (d for d in _documents() if (d["kind"] in _WORKLOADS) and d["metadata"]["name"] == name)
    return next(found)


def _playable(workload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    name, pod = workload["metadata"]["name"], workload["spec"]["template"]["spec"]
    for claim in workload["spec"].pop("volumeClaimTemplates", []):
        template = claim["metadata"]["name"]
        reference = {"claimName": f"{template}-{name}"}
        pod.setdefault("volumes", []).append({"name": template, "persistentVolumeClaim": reference})
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{template}-{name}"},
            "spec": claim["spec"],
        }
    _own_volumes(name, pod)
    for container in pod["containers"]:
        container["imagePullPolicy"] = "Never"
        container.pop("ports", None)  # podman would publish them on every address
        container.pop("livenessProbe", None)  # it would ask with a curl in the container
        if name == "triton":
            _preview(container)
    yield {**workload, "kind": "Deployment"}


def _own_volumes(workload: str, pod: dict[str, Any]) -> None:
    """Name empty volumes apart, and leave shared memory to podman, whose own all may write to."""
    empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "shm"]
    for each in (*pod["volumes"], *(m for c in pod["containers"] for m in c["volumeMounts"])):
        if each["name"] in empty:
            each["name"] = f"{each['name']}-{workload}"
    for container in pod["containers"]:
        mounts = container["volumeMounts"]
        container["volumeMounts"] = [m for m in mounts if m["mountPath"] != "/dev/shm"]


def _preview(container: dict[str, Any]) -> None:
    container["image"] = PREVIEW
    container["resources"]["limits"].pop("nvidia.com/gpu")
    # Its token for weights, which the previews need not.
    container["env"] = [each for each in container.get("env", []) if "valueFrom" not in each]
