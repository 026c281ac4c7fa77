"""Who may see and change dead letters: the accounts of Flower, and whoever is at this machine."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from metrics import metrics
from weavloader.accounts import Account, PasswordCheck
from weavloader.settings import Settings

logger = logging.getLogger(__name__)

# Headers by which proxies name the client that they forward for.
FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
_AT_THIS_MACHINE = Account("", "")


class Access:
    """Basic auth with Flower's accounts, for requests that may come from another machine.

    Args:
        accounts: Who may pass.
        is_local: Whether the pages listen on this machine only.
    """

    def __init__(self, accounts: Sequence[Account], is_local: bool) -> None:
        self._passwords = PasswordCheck(accounts, lambda: metrics.count_wrong_password("web"))
        self._is_local = is_local

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """Access by the settings; warns where the published default password is in use."""
        is_local = is_loopback(settings.web_address)
        if settings.has_default_account and not is_local:
            logger.warning(
                "dead letters are open to the published default password: set FLOWER_BASIC_AUTH"
            )
        return cls(settings.accounts(), is_local)

    def account(self, host: str, headers: Mapping[str, str], source: str) -> Account | None:
        """The account of a request; ``None`` where it has none.

        A person at this machine needs no password. A host other than this machine means that a
        proxy forwarded the request, or that a foreign page rebound its name to this address:
        neither is a person at this machine. Many proxies send this machine's name, and name the
        client in a header of their own.

        Args:
            host: The ``Host`` header, without the port.
            headers: All headers.
            source: Address of the client.

        Raises:
            TooManyGuesses: The source has sent too many wrong passwords.
        """
        # HTTP/1.0 allows for a request without a host, to which the server gives this machine's.
        is_here = "Host" in headers and is_loopback(host)
        if self._is_local and is_here and not any(name in headers for name in FORWARDED):
            return _AT_THIS_MACHINE
        return self._passwords.find(headers.get("Authorization", ""), source)


def is_same_origin(host: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a page of this server, or from no page at all.

    Every browser of today says it. Another port of this machine is the same site to cookies, which
    it may set, so the token of a form alone does not tell.

    Args:
        host: The ``Host`` header, with the port.
        headers: All headers.
    """
    if site := headers.get("Sec-Fetch-Site"):
        return site == "same-origin"
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == host


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
