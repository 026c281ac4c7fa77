"""An alert reaches its receiver: real Prometheus and Alertmanager, a component that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from demo.servers.prometheus import HOW_TO_GET_ALERTS, HOW_TO_GET_ONE
from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE
from tests.support.local_server import Answer, LocalServer, local_server
from tests.support.missing_parts import skip_without
from tools.watched_run import Addresses, quiet_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What is stopped, and the alert that tells of it, with a label that it must have.
KILLED = {
    "triton": ("WeavloaderComponentDown", {"component": "triton"}),
    "weavloader:flower": ("WeavloaderFlowerDown", {}),
    "weavloader:processor": ("WeavloaderWorkersGone", {"role": "processor"}),
    "weavloader:moderator": ("WeavloaderWorkersGone", {"role": "moderator"}),
    "weavloader:cleaner": ("WeavloaderWorkersGone", {"role": "cleaner"}),
    "redis": ("WeavloaderComponentDown", {"component": "redis"}),
    "weavloader:metrics": ("WeavloaderEndpointDown", {"job": "weavloader"}),
}


@dataclass(frozen=True, slots=True)
class Watched:
    """A running system, and the receiver of its alerts."""

    addresses: Addresses
    receiver: LocalServer

    def wait_for(self, alert: str, labels: dict[str, str], status: str = "firing") -> Any:
        """The notification of an alert."""

        def arrived() -> Any:
            posted = [json.loads(request.body) for request in self.receiver.requests]
            found = [
                each
                for notification in posted
                for each in notification["alerts"]
                if each["labels"]["alertname"] == alert
                and each["status"] == status
                and labels.items() <= each["labels"].items()
            ]
            return found[-1] if found else None

        return wait_until(arrived, f"{status} {alert} {labels} at the receiver", 120)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    if shutil.which("prometheus") is None:
        skip_without(HOW_TO_GET_ONE)
    if not (shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")):
        skip_without(HOW_TO_GET_ALERTS)
    with local_server(lambda request: Answer()) as receiver, quiet_run(receiver.url) as addresses:
        yield Watched(addresses, receiver)


@pytest.fixture(autouse=True)
def only_new(watched: Watched) -> None:
    """What was sent before a test says nothing about it."""
    watched.receiver.requests.clear()


def check_links(alert: dict[str, Any], addresses: Addresses) -> None:
    """The runbook's link opens at the section of the alert; the dashboard's is absolute."""
    link = alert["annotations"]["runbook_url"]
    assert link == f"{addresses.web}/runbook#{alert['labels']['alertname'].lower()}"
    page = httpx.get(link, timeout=20).raise_for_status().text
    assert f'<h2 id="{link.partition("#")[2]}">' in page
    assert alert["annotations"]["dashboard_url"] == "http://localhost:3000/d/weavloader"


@pytest.mark.parametrize("program", KILLED)
def test_a_stopped_component_is_told_to_the_receiver_and_so_is_its_return(
    program: str, watched: Watched
) -> None:
    name, labels = KILLED[program]
    watched.addresses.supervise("stop", program)
    try:
        alert = watched.wait_for(name, labels)
        check_links(alert, watched.addresses)
    finally:
        watched.addresses.supervise("start", program)
    watched.wait_for(name, labels, "resolved")


def test_a_killed_weaviate_is_told_to_the_receiver(watched: Watched) -> None:
    if not watched.addresses.weaviate:
        skip_without(HOW_TO_GIVE_ONE)
    os.kill(watched.addresses.weaviate, signal.SIGKILL)
    alert = watched.wait_for("WeavloaderComponentDown", {"component": "store"})
    check_links(alert, watched.addresses)
