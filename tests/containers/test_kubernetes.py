"""Every Deployment of the manifest as a pod: the replay's images pass through all of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from demo.dataset import EXCLUDED_NODE
from demo.servers.waiting import wait_until
from tests.containers import images
from tests.containers.engine import ROOT, Engine
from tests.containers.kube import CLIENT, NETWORK, SECRETS, Kube, Probe, probes, workloads

IMAGES = 20
REDIS = f"redis://:{SECRETS['REDIS_PASSWORD']}@redis:6379/0"
SETTINGS = {
    "SAGE_DATA_API": "http://replay:8000/api/v1/query",
    "SAGE_STORAGE_HOSTS": "http://replay:8000",
    "SAGE_PUBLIC_HOSTS": "http://replay:8002",
    "MANIFEST_API": "http://replay:8000/manifests/",
    "UNALLOWED_NODES": EXCLUDED_NODE.vsn,
    "POLL_MIN_SECONDS": "1",
    "POLL_MAX_SECONDS": "3",
    "RETRY_DELAY": "1",
    "PREVIEW_MODELS": "true",
    "LATE_UPLOAD_WINDOW": "15s",
}

pytestmark = pytest.mark.skipif(
    shutil.which("weaviate") is None, reason="pods share no embedded store: no weaviate on PATH"
)


@pytest.fixture(scope="module")
def began() -> int:
    """When the replay began, in nanoseconds since 1970."""
    return time.time_ns()


@pytest.fixture(scope="module")
def kube(engine: Engine) -> Kube:
    """The manifest's settings and secrets."""
    return Kube(engine, SETTINGS)


@pytest.fixture(scope="module")
def pods(engine: Engine, kube: Kube, began: int) -> Iterator[Engine]:
    """Every workload of the manifest, started, and a replay."""
    images.build_all(engine)
    engine.podman("network", "create", NETWORK)
    try:
        kube.create_secret()
        start_replay(engine, began)
        for name in workloads():
            kube.play(name)
        for probe in (each for each in probes() if each.kind == "startup"):
            kube.wait_for(probe, 180)
        yield engine
    finally:
        engine.podman("pod", "rm", "--all", "--force", "--time", "0")
        engine.podman("rm", "--force", "--time", "0", CLIENT)
        engine.podman("volume", "rm", "--all", "--force")
        engine.podman("secret", "rm", "--all")
        engine.podman("network", "rm", NETWORK)


def start_replay(engine: Engine, began: int) -> None:
    """The replay in a container, from which the tests ask as well."""
    variables = {**SETTINGS, **SECRETS, "CELERY_BROKER_URL": REDIS, "CELERY_RESULT_BACKEND": REDIS}
    options = [f"--env={name}={value}" for name, value in variables.items()]
    for source, target in (("demo", "demo"), ("tests/containers/inside.py", "inside.py")):
        options += ["--volume", f"{ROOT / source}:/app/{target}:ro"]
    replay = [
        "python",
        "-m",
        "demo.sage_replay",
        "--address=0.0.0.0",
        "--name=replay",
        "--port=8000",
        "--other-port=8001",
        "--signed-port=8002",
        f"--images={IMAGES}",
        f"--began={began}",
        "--user=sage",
    ]
    engine.podman(
        "run",
        "--detach",
        "--init",
        "--name",
        CLIENT,
        "--network",
        NETWORK,
        *options,
        images.OURS,
        *replay,
    )


def test_every_workload_runs_with_a_read_only_root(pods: Engine) -> None:
    for name in workloads():
        container = f"{name}-pod-0-{name}"
        state = "{{.State.Running}} {{.HostConfig.ReadonlyRootfs}}"
        assert pods.podman("inspect", "--format", state, container).strip() == "true true", name


def test_the_replays_images_pass_through_the_pods(pods: Engine, began: int) -> None:
    ask = "from tasks import health_check; health_check.delay()"
    wrong: list[str] = []

    def settled() -> bool:
        command = ("exec", CLIENT, "python", "inside.py", "account", str(began), str(IMAGES))
        wrong[:] = pods.podman(*command).splitlines()
        if wrong:
            pods.podman("exec", CLIENT, "python", "-c", ask)
        return not wrong

    wait_until(settled, "an outcome of every image", 300)


@pytest.mark.parametrize("role", ["processor", "moderator", "cleaner"])
def test_the_metrics_server_beside_a_worker_counts_for_it(pods: Engine, role: str) -> None:
    ask = "import urllib.request as r; print(r.urlopen('http://localhost:8080/metrics').read().decode())"
    container = f"{role}-pod-0-metrics"
    said = pods.podman("exec", container, "python", "-c", ask, check=False)
    assert "weavloader_tasks" in said, pods.log(container)


@pytest.mark.usefixtures("pods")
@pytest.mark.parametrize("probe", probes(), ids=str)
def test_every_probe_passes(kube: Kube, probe: Probe) -> None:
    kube.wait_for(probe, 60)
