"""The passwords of Flower: compared in full, wrong ones logged, counted and slowed down.

Flower compares them itself, but lets a program guess 1,800 in a second without a word, and
answers one that is not ASCII with a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

from flower.views import BaseHandler
from tornado.web import HTTPError

from metrics import metrics
from weavloader.accounts import Account, PasswordCheck, TooManyGuesses


def guard_flower(accounts: Sequence[Account]) -> None:
    """Let only these accounts into the Flower of this process."""
    passwords = PasswordCheck(accounts, lambda: metrics.count_wrong_password("flower"))

    def current_user(handler: BaseHandler) -> str:
        request = handler.request
        try:
            account = passwords.find(
                request.headers.get("Authorization", ""), request.remote_ip or ""
            )
        except TooManyGuesses as error:
            handler.set_header("Retry-After", str(error.seconds))
            raise HTTPError(429, str(error)) from None
        if account is None:
            raise HTTPError(401)
        return account.name

    BaseHandler.get_current_user = current_user
