"""Who may see and change dead letters: those who may see Flower, or who sit at this machine."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Mapping, Sequence

from weavloader.settings import DEFAULT_FLOWER_AUTH, Settings

logger = logging.getLogger(__name__)

# What proxies say of the one they ask for, Host being theirs.
FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class Access:
    """Basic auth with Flower's accounts, wherever a request may come from another machine.

    Args:
        accounts: ``user:password`` each.
        is_local: Whether only this machine reaches the pages.
    """

    def __init__(self, accounts: Sequence[str], is_local: bool) -> None:
        self._accounts = [account.encode() for account in accounts]
        self._is_local = is_local

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """What the settings ask for; warns where the published default guards the pages."""
        given = settings.flower_basic_auth.get_secret_value()
        is_local = is_loopback(settings.web_address)
        if given == DEFAULT_FLOWER_AUTH and not is_local:
            logger.warning(
                "Dead letters are guarded by the published default password: set FLOWER_BASIC_AUTH"
            )
        return cls([account.strip() for account in given.split(",")], is_local)

    def allows(self, host: str, headers: Mapping[str, str]) -> bool:
        """Whether a request may pass.

        A name other than this machine's means that a proxy passed the request on, or that a
        foreign page rebound its name to this address: neither is a person here. Many proxies
        ask by this machine's name, and say so in a header of their own.

        Args:
            host: What its ``Host`` header names, without the port.
            headers: All its headers.
        """
        is_here = is_loopback(host) and not any(name in headers for name in FORWARDED)
        return (self._is_local and is_here) or self._is_known(headers.get("Authorization", ""))

    def _is_known(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        # Every account is compared, in constant time: the answer's delay tells nothing.
        matches = [hmac.compare_digest(given, account) for account in self._accounts]
        return scheme.lower() == "basic" and any(matches)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
