"""Webhooks: which servers may be sent to, and one signed POST to one of them.

The headers are those of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

import httpx

from weavloader.errors import ConfigError, PermanentError, Reason
from weavloader.http_client import exchange, is_public, shown
from weavloader.images.download import listed_origin, origin_of
from weavloader.saved.searches import DeliveryOutcome, SavedSearch

ANSWER_SECONDS = 15.0
MAX_RETRY_AFTER = 86400.0
MAX_URL = 2000
SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret begins
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one POST.

    Attributes:
        detail: Why it failed; empty where it did not.
        retry_after: Seconds that the receiver asks for.
    """

    outcome: DeliveryOutcome
    detail: str = ""
    retry_after: float = 0.0


def new_secret() -> str:
    """A secret for the deliveries of one search."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signature(secret: str, delivery_id: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature`` of a delivery."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b".".join((delivery_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Receivers:
    """The servers that deliveries may be sent to.

    Args:
        hosts: ``WEBHOOK_HOSTS``: those that may be at any address, without TLS too. Others must
            have a public address, and are sent to by https.

    Raises:
        ConfigError: An entry is no host.
    """

    def __init__(self, hosts: Collection[str]) -> None:
        self._listed = {listed_origin(host, "WEBHOOK_HOSTS") for host in hosts}

    def check(self, url: str) -> str:
        """The URL of a webhook, if it may be sent to.

        Raises:
            ConfigError: It is no such URL; the message says what to do.
        """
        try:
            parsed = httpx.URL(url)
            is_url = parsed.scheme in ("http", "https") and parsed.host and len(url) <= MAX_URL
            if not is_url or parsed.userinfo or not url.isprintable():
                raise httpx.InvalidURL("")
        except httpx.InvalidURL:
            raise _invalid("webhook: expected a URL such as https://host/path") from None
        if not self.is_listed(parsed) and not _may_be_public(parsed):
            name = parsed.netloc.decode(errors="replace")
            raise _invalid(
                f"webhook: {name} must have a public address and https, or be in WEBHOOK_HOSTS"
            )
        return url

    def is_listed(self, url: httpx.URL | str) -> bool:
        """Whether the operator has listed the host of a URL."""
        return origin_of(httpx.URL(url)) in self._listed


def _may_be_public(url: httpx.URL) -> bool:
    if url.scheme != "https" or url.host.lower().rstrip(".").endswith("localhost"):
        return False
    try:
        return is_public(url.host)
    except ValueError:
        return True  # a name: its address is looked at when it is connected to


class Sender:
    """Sends deliveries.

    Args:
        http: Made by ``new_http_client``.
        receivers: Whom it sends to.
    """

    def __init__(self, http: httpx.Client, receivers: Receivers) -> None:
        self._http = http
        self.receivers = receivers

    def send(self, search: SavedSearch, delivery_id: str, body: bytes) -> Answer:
        """POST a body. Redirects are not followed, and no body of an answer is read."""
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(search.secret, delivery_id, timestamp, body),
        }
        try:
            url = self.receivers.check(search.webhook)
            with exchange(
                self._http,
                "POST",
                url,
                seconds=ANSWER_SECONDS,
                public_only=not self.receivers.is_listed(url),
                content=body,
                headers=headers,
            ) as answer:
                return _answer(answer)
        except (ConfigError, PermanentError) as error:
            return Answer(DeliveryOutcome.FAILED, str(error))
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return Answer(DeliveryOutcome.FAILED, shown(error))


def _answer(answer: httpx.Response) -> Answer:
    if answer.is_success:
        return Answer(DeliveryOutcome.DELIVERED)
    is_gone = answer.status_code == httpx.codes.GONE
    outcome = DeliveryOutcome.GONE if is_gone else DeliveryOutcome.FAILED
    asked = answer.headers.get("retry-after", "")
    wait = float(asked) if asked.isdecimal() and len(asked) < 10 else 0.0
    return Answer(outcome, f"answered {answer.status_code}", min(wait, MAX_RETRY_AFTER))


def _invalid(message: str) -> ConfigError:
    return ConfigError(message, reason=Reason.BAD_ARGUMENT)
