"""Admins are found by their names as people write them, and nobody else is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.admin.operations import resolve
from bot.entities import Account
from bot.errors import NotFound
from bot.instance.client import Client


def client(*, me: str = "dokocos", **accounts: str) -> Client:
    """Knows accounts by the name they are looked up by; each has the acct that the server returns, as the bot's own."""

    def lookup(acct: str) -> Account:
        if acct not in accounts:
            raise NotFound("no such account")
        return Account("1", accounts[acct], bot=False, created_at=None, profile="")

    reader: Any = SimpleNamespace(lookup=lookup)
    home: Any = SimpleNamespace(me=lambda: Account("9", me, bot=True, created_at=None, profile=""))
    return cast("Client", SimpleNamespace(reader=reader, home=home))


@pytest.mark.parametrize("named", ["person", "@Person", "person@home.example", "@person@home.example"])
@pytest.mark.parametrize("acct", ["person", "person@home.example"])  # some servers add the host for their own, too
def test_an_admin_of_the_own_instance_is_found_with_and_without_its_host(named: str, acct: str) -> None:
    assert resolve(client(person=acct), [named], home="https://home.example") == {"1": acct}


@pytest.mark.parametrize("named", ["person", "person@names.example", "person@social.names.example"])
def test_an_admin_is_found_where_names_have_another_host_than_the_address(named: str) -> None:
    known = client(me="dokocos@names.example", person="person@names.example")
    assert resolve(known, [named], home="https://social.names.example") == {"1": "person@names.example"}


@pytest.mark.parametrize("acct", ["person@other.example", "person2", "person@home.example.evil.example"])
def test_another_account_than_the_named_one_gives_no_orders(acct: str) -> None:
    assert resolve(client(person=acct), ["person"], home="https://home.example") == {}


def test_an_admin_of_another_instance_is_found_by_the_whole_name() -> None:
    known = client(**{"person@other.example": "person@other.example"})
    assert resolve(known, ["person@other.example"], home="https://home.example") == {"1": "person@other.example"}
    assert resolve(known, ["person"], home="https://home.example") == {}
