"""Who may see and change dead letters: the accounts of Flower, and whoever is at this machine."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Mapping, Sequence

from weavloader.settings import DEFAULT_FLOWER_AUTH, Settings

logger = logging.getLogger(__name__)

# Headers by which proxies name the client that they forward for.
FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class Access:
    """Basic auth with Flower's accounts, for requests that may come from another machine.

    Args:
        accounts: ``user:password`` each.
        is_local: Whether the pages listen on this machine only.
    """

    def __init__(self, accounts: Sequence[str], is_local: bool) -> None:
        self._accounts = [account.encode() for account in accounts]
        self._is_local = is_local

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """Access by the settings; warns where the published default password is in use."""
        given = settings.flower_basic_auth.get_secret_value()
        is_local = is_loopback(settings.web_address)
        if given == DEFAULT_FLOWER_AUTH and not is_local:
            logger.warning(
                "dead letters are open to the published default password: set FLOWER_BASIC_AUTH"
            )
        return cls([account.strip() for account in given.split(",")], is_local)

    def allows(self, host: str, headers: Mapping[str, str]) -> bool:
        """Whether a request is allowed.

        A host other than this machine means that a proxy forwarded the request, or that a
        foreign page rebound its name to this address: neither is a person at this machine. Many
        proxies send this machine's name, and name the client in a header of their own.

        Args:
            host: The ``Host`` header, without the port.
            headers: All headers.
        """
        is_here = is_loopback(host) and not any(name in headers for name in FORWARDED)
        return (self._is_local and is_here) or self._is_known(headers.get("Authorization", ""))

    def _is_known(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        # Every account is compared, in constant time: the delay of the response reveals nothing.
        matches = [hmac.compare_digest(given, account) for account in self._accounts]
        return scheme.lower() == "basic" and any(matches)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
