"""Who may pass: accounts and their roles, this machine, and how wrong passwords are answered."""

from __future__ import annotations

import base64
import logging

import pytest

from weavloader.accounts import (
    MAX_SOURCES,
    MAX_WRONG,
    SECONDS_PER_GUESS,
    Account,
    PasswordCheck,
    TooManyGuesses,
    parse_accounts,
)
from web.handler import FORWARDED, Access, is_loopback, is_same_origin

HERE = {"Host": "localhost"}
ACCOUNTS = parse_accounts("admin:secret")
SOURCE = "203.0.113.7"


def basic(account: str) -> str:
    return "Basic " + base64.b64encode(account.encode()).decode()


def test_accounts_are_cut_at_commas_and_trimmed() -> None:
    accounts = parse_accounts(" ann:secret , bob:with:colon", viewers=["bob"])
    assert accounts == (Account("ann", "secret", True), Account("bob", "with:colon", False))
    assert "secret" not in repr(accounts)


@pytest.mark.parametrize(
    "text", ["", ",", "op:password,", ",op:password", "op:", ":password", "op", "op: ,b:c"]
)
def test_an_account_without_name_or_password_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not user:password") as raised:
        parse_accounts(text)
    assert "op" not in str(raised.value)


def test_a_viewer_needs_an_account() -> None:
    with pytest.raises(ValueError, match="'eve'"):
        parse_accounts("ann:secret", viewers=["eve"])


class Guesses:
    """A check of passwords, with the time of day in a test's hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.counted = 0
        self.check = PasswordCheck(ACCOUNTS, self._count, clock=lambda: self.now)

    def _count(self) -> None:
        self.counted += 1

    def wrong(self, times: int, source: str = SOURCE) -> None:
        for number in range(times):
            assert self.check.find(basic(f"admin:{number}"), source) is None

    def right(self, source: str = SOURCE) -> Account | None:
        return self.check.find(basic("admin:secret"), source)


def test_a_source_that_guesses_is_slowed_down_and_others_are_not() -> None:
    guesses = Guesses()
    guesses.wrong(MAX_WRONG)
    with pytest.raises(TooManyGuesses) as raised:
        guesses.right()
    assert 0 < raised.value.seconds <= SECONDS_PER_GUESS
    assert guesses.right("203.0.113.8") == ACCOUNTS[0]
    guesses.now += SECONDS_PER_GUESS
    guesses.wrong(1)
    with pytest.raises(TooManyGuesses):
        guesses.right()
    guesses.now += SECONDS_PER_GUESS
    assert guesses.right() == ACCOUNTS[0]


def test_wrong_passwords_are_forgotten_in_time() -> None:
    guesses = Guesses()
    guesses.wrong(MAX_WRONG)
    guesses.now += MAX_WRONG * SECONDS_PER_GUESS
    guesses.wrong(MAX_WRONG)


def test_right_passwords_and_none_are_no_guesses() -> None:
    guesses = Guesses()
    for _ in range(3 * MAX_WRONG):
        assert guesses.right() == ACCOUNTS[0]
        assert guesses.check.find("", SOURCE) is None
    assert guesses.counted == 0


def test_a_wrong_password_is_counted_and_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guesses = Guesses()
    with caplog.at_level(logging.WARNING):
        guesses.check.find(basic("admin:hunter2"), SOURCE)
    assert guesses.counted == 1
    assert caplog.messages == [f"wrong password from {SOURCE}"]


def test_many_sources_take_no_memory() -> None:
    guesses = Guesses()
    for number in range(MAX_SOURCES + 10):
        guesses.wrong(1, str(number))
    assert len(guesses.check._forgiven) == MAX_SOURCES


@pytest.mark.parametrize("text", ["Basic é", "Basic " + "=" * 9, basic("ädmin:sécret"), "é é é"])
def test_credentials_that_are_not_ascii_are_wrong_rather_than_an_error(text: str) -> None:
    assert Guesses().check.find(text, SOURCE) is None


def test_an_account_that_is_not_ascii_passes() -> None:
    check = PasswordCheck(parse_accounts("ädmin:sécret"), lambda: None)
    assert check.find(basic("ädmin:sécret"), SOURCE) is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_who_sits_at_this_machine_needs_no_password_and_may_change(host: str) -> None:
    account = Access(ACCOUNTS, is_local=True).account(host, {"Host": host}, "127.0.0.1")
    assert account is not None and account.may_change


def test_a_foreign_name_for_this_machine_needs_the_password() -> None:
    access = Access(ACCOUNTS, is_local=True)
    headers = {"Host": "pages.example"}
    assert access.account("pages.example", headers, SOURCE) is None
    headers["Authorization"] = basic("admin:secret")
    assert access.account("pages.example", headers, SOURCE) is not None


def test_a_request_without_a_host_needs_the_password() -> None:
    assert Access(ACCOUNTS, is_local=True).account("127.0.0.1", {}, "127.0.0.1") is None


@pytest.mark.parametrize("header", FORWARDED)
def test_who_is_passed_on_by_a_proxy_needs_the_password(header: str) -> None:
    access = Access(ACCOUNTS, is_local=True)
    headers = {**HERE, header: ""}
    assert access.account("localhost", headers, SOURCE) is None
    headers["Authorization"] = basic("admin:secret")
    assert access.account("localhost", headers, SOURCE) is not None


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!",
        basic(""),
        basic("admin"),
        basic("admin:wrong"),
        basic("root:secret"),
        basic("admin:secret").replace("Basic", "Bearer"),
        basic("admin:secret,other:word"),
    ],
)
def test_beyond_this_machine_only_flowers_accounts_pass(authorization: str) -> None:
    access = Access(parse_accounts("admin:secret,other:word"), is_local=False)
    assert access.account("localhost", {**HERE, "Authorization": authorization}, SOURCE) is None
    for known in ("admin:secret", "other:word"):
        headers = {**HERE, "Authorization": basic(known)}
        assert access.account("localhost", headers, SOURCE) is not None


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"Origin": "http://localhost:8081"}, True),
        ({"Origin": "https://localhost:8081"}, True),  # a proxy ends TLS
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "http://foreign.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://["}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8081"}, True),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
    ],
)
def test_a_request_of_another_origin_is_told_apart(headers: dict[str, str], same: bool) -> None:
    assert is_same_origin("localhost:8081", headers) is same


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"]
)
def test_names_of_this_machine_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "localhost.example", "", "127.0.0.1.nip"])
def test_other_names_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)
