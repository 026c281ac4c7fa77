"""An alert reaches its receiver: real Prometheus and Alertmanager, a component that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import httpx
import pytest

from demo.servers.prometheus import HOW_TO_GET_ALERTS, HOW_TO_GET_ONE
from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE
from tests.support.local_server import Answer, LocalServer, local_server
from tests.support.mail_server import PASSWORD, USER, MailServer, mail_server
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
    """A running system, and the receivers of its alerts."""

    addresses: Addresses
    receiver: LocalServer
    mail: MailServer

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
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    if shutil.which("prometheus") is None:
        skip_without(HOW_TO_GET_ONE)
    if not (shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")):
        skip_without(HOW_TO_GET_ALERTS)
    folder = tmp_path_factory.mktemp("mail")
    with local_server(lambda request: Answer()) as receiver, mail_server(folder) as mail:
        to = {
            "ALERT_WEBHOOK_URL": receiver.url,
            "ALERT_EMAIL_TO": "night@example.org, day@example.org",
            "ALERT_EMAIL_FROM": "weavloader@example.org",
            "ALERT_SMTP_HOST": mail.host,
            "ALERT_SMTP_USER": USER,
            "ALERT_SMTP_PASSWORD": PASSWORD,
            "SSL_CERT_FILE": str(mail.certificate),
        }
        with quiet_run(to) as addresses:
            yield Watched(addresses, receiver, mail)


@pytest.fixture(autouse=True)
def only_new(watched: Watched) -> None:
    """What was sent before a test says nothing about it."""
    watched.receiver.requests.clear()
    watched.mail.mails.clear()


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


def test_a_killed_stream_monitor_comes_back_and_one_that_does_not_is_told(watched: Watched) -> None:
    addresses = watched.addresses

    def pid() -> int:
        return int(addresses.supervise("pid", "weavloader:stream"))

    killed = pid()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: pid() not in (0, killed), "the stream monitor again", 60)
    addresses.supervise("stop", "weavloader:stream")
    name, labels = "WeavloaderStreamNotLookedAt", {"severity": "critical"}
    try:
        check_links(watched.wait_for(name, labels), addresses)
    finally:
        addresses.supervise("start", "weavloader:stream")
    watched.wait_for(name, labels, "resolved")


def test_an_alert_is_mailed_to_everybody_with_a_link_to_the_runbook(watched: Watched) -> None:
    def about_flower() -> list[EmailMessage]:
        subject = "[FIRING:1] WeavloaderFlowerDown (info)"
        return [mail for mail in watched.mail.mails if mail["Subject"] == subject]

    watched.addresses.supervise("stop", "weavloader:flower")
    try:
        (mail,) = wait_until(about_flower, "the mail", 120)
    finally:
        watched.addresses.supervise("start", "weavloader:flower")
    assert mail["From"] == "weavloader@example.org"
    assert all(to in mail["X-To"] for to in ("night@example.org", "day@example.org"))
    body = mail.get_body(("html",))
    assert body is not None
    page = body.get_content()
    assert f"{watched.addresses.web}/runbook#weavloaderflowerdown" in page
    assert "Processing is unaffected." in page


def test_a_killed_weaviate_is_told_to_the_receiver(watched: Watched) -> None:
    if not watched.addresses.weaviate:
        skip_without(HOW_TO_GIVE_ONE)
    os.kill(watched.addresses.weaviate, signal.SIGKILL)
    alert = watched.wait_for("WeavloaderComponentDown", {"component": "store"})
    check_links(alert, watched.addresses)
