"""The accounts of Flower and of the dead-letter pages, and how a wrong password is answered."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

PLACEHOLDER = "REPLACE_ME"
DEFAULT_FLOWER_AUTH = "admin:weavloader123"
# A person who mistypes is not stopped; a program that guesses gets ten in a minute.
MAX_WRONG = 10
SECONDS_PER_GUESS = 6.0
# Sources are forgotten oldest first, so that many of them take no memory.
MAX_SOURCES = 4096


@dataclass(frozen=True, slots=True)
class Account:
    """Who may open the pages that need a password.

    Attributes:
        may_change: Whether it is an operator, rather than a viewer.
    """

    name: str
    password: str = field(repr=False)
    may_change: bool = True

    @property
    def credentials(self) -> str:
        """``user:password``, as Basic authentication carries it."""
        return f"{self.name}:{self.password}"


def parse_accounts(text: str, viewers: Collection[str] = ()) -> tuple[Account, ...]:
    """Read a comma-separated list of ``user:password``.

    Args:
        viewers: Names of the accounts that may change nothing.

    Raises:
        ValueError: An account lacks a name or a password, such as after a stray comma, or a viewer
            has no account. The message shows no password.
    """
    accounts = []
    for position, pair in enumerate(text.split(","), 1):
        name, _, password = (part.strip() for part in pair.partition(":"))
        if not name or not password:
            raise ValueError(f"account {position} is not user:password")
        accounts.append(Account(name, password, name not in viewers))
    if unknown := set(viewers) - {account.name for account in accounts}:
        raise ValueError(f"no account has the name {min(unknown)!r}")
    return tuple(accounts)


class TooManyGuesses(Exception):
    """A source sent too many wrong passwords; ``seconds`` until its next attempt is looked at."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many wrong passwords; wait {seconds} s")
        self.seconds = seconds


class PasswordCheck:
    """Compares credentials with the accounts; wrong ones are logged, counted and slowed down.

    Args:
        accounts: Who may pass.
        count_wrong: Called for each wrong password.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        accounts: Sequence[Account],
        count_wrong: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = [(account, account.credentials.encode()) for account in accounts]
        self._count_wrong = count_wrong
        self._clock = clock
        # When the wrong passwords of a source will be forgotten: each adds to it.
        self._forgiven: OrderedDict[str, float] = OrderedDict()

    def find(self, authorization: str, source: str) -> Account | None:
        """The account of an ``Authorization`` header; ``None`` for a wrong or missing one.

        Args:
            source: Address of the client.

        Raises:
            TooManyGuesses: The source has sent too many wrong passwords; this one is not looked at.
        """
        if not authorization:
            return None
        now = self._clock()
        forgiven = max(self._forgiven.get(source, 0.0), now)
        wait = forgiven - now - (MAX_WRONG - 1) * SECONDS_PER_GUESS
        if wait > 0:
            raise TooManyGuesses(math.ceil(wait))
        account = self._match(authorization)
        if account is None:
            self._note_wrong(source, forgiven + SECONDS_PER_GUESS)
        return account

    def _match(self, authorization: str) -> Account | None:
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return None
        # Every account is compared, in constant time: the delay of the response reveals nothing.
        matches = [account for account, own in self._accounts if hmac.compare_digest(given, own)]
        return matches[0] if matches and scheme.lower() == "basic" else None

    def _note_wrong(self, source: str, forgiven: float) -> None:
        self._forgiven[source] = forgiven
        self._forgiven.move_to_end(source)
        if len(self._forgiven) > MAX_SOURCES:
            self._forgiven.popitem(last=False)
        self._count_wrong()
        # Neither the name nor the password: a person types one in place of the other.
        logger.warning("wrong password from %s", source)
