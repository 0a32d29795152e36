"""The rules of other servers, as the sandbox's instance keeps them by its profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from sandbox.instance import Account, Instance
from sandbox.instance.profile import MASTODON, NUMBERS, POLLING, ULIDS, Mixed, Numbers, Ulids

SNOWFLAKES = st.integers(0, (1 << 64) - 1)


@given(number=SNOWFLAKES, kind=st.sampled_from(["", "mention", "follow"]))
@pytest.mark.parametrize("ids", [NUMBERS, Ulids(), Mixed()])
def test_an_id_leads_back_to_its_record(ids: Numbers | Ulids, number: int, kind: str) -> None:
    assert ids.read(ids.show(number, kind)) == number


@given(texts=st.text(max_size=40))
def test_what_is_no_id_leads_to_no_record(texts: str) -> None:
    for ids in (NUMBERS, Ulids(), Mixed()):
        number = ids.read(texts)
        assert number is None or texts.isdigit() or "/" in texts or ids.show(number, "") == texts


@given(older=SNOWFLAKES, newer=SNOWFLAKES)
def test_ulids_are_in_the_order_of_their_time(older: int, newer: int) -> None:
    shown = Ulids().show(older, ""), Ulids().show(newer, "")
    assert (older >> 16 < newer >> 16) <= (shown[0] < shown[1])
    assert {len(each) for each in shown} == {26}


@pytest.fixture
def bot(instance: Instance) -> Account:
    return instance.add_account("bot")


def get(url: str, token: str, **params: Any) -> requests.Response:
    return requests.get(url, params=params, headers={"Authorization": f"Bearer {token}"}, timeout=5)


@pytest.mark.every_profile
def test_statuses_and_notifications_are_reached_by_their_ids(
    instance: Instance, instance_url: str, bot: Account
) -> None:
    alice = instance.add_account("alice")
    questions = [instance.post(alice, "@bot hello") for _ in range(3)]
    found = get(f"{instance_url}/api/v1/notifications", bot.token, types=["mention"]).json()
    assert [each["status"]["id"] for each in reversed(found)] == [instance.host.shown_id(each.id) for each in questions]
    newest, middle, oldest = (each["id"] for each in found)
    for params, expected in (({"min_id": oldest, "limit": 1}, [middle]), ({"max_id": middle}, [oldest])):
        page = get(f"{instance_url}/api/v1/notifications", bot.token, **params).json()
        assert [each["id"] for each in page] == expected
    assert newest != middle
    status = get(f"{instance_url}/api/v1/statuses/{found[0]['status']['id']}", bot.token).json()
    assert status["account"]["id"] == found[0]["account"]["id"] == instance.host.shown_id(alice.id)


@pytest.mark.every_profile
def test_an_account_of_the_server_is_named_as_there(instance: Instance, instance_url: str, bot: Account) -> None:
    question = instance.post(instance.add_account("alice"), "@bot hello")
    full = instance.settings.profile.full_names
    shown = get(f"{instance_url}/api/v1/statuses/{instance.host.shown_id(question.id)}", bot.token).json()
    assert shown["account"]["acct"] == ("alice@sandbox.test" if full else "alice")
    assert [each["acct"] for each in shown["mentions"]] == ["bot@sandbox.test" if full else "bot"]
    for name in ("alice", "alice@sandbox.test"):
        found = get(f"{instance_url}/api/v1/accounts/lookup", bot.token, acct=name)
        assert found.json()["id"] == shown["account"]["id"]


@pytest.mark.every_profile
def test_a_token_with_fine_scopes_is_worth_nothing_where_scopes_are_coarse(
    instance: Instance, instance_url: str, bot: Account
) -> None:
    coarse = instance.settings.profile.coarse_scopes
    for scope, works in (("read", True), ("read:notifications", not coarse)):
        answer = get(f"{instance_url}/api/v1/notifications", instance.token(bot, scope))
        assert answer.status_code == (200 if works else 403)


@pytest.mark.every_profile
@pytest.mark.parametrize(
    ("text", "by_graphemes"), [("@bot@sandbox.test " + "x" * 495, True), ("👩‍🚀" * 200, True), ("x" * 501, False)]
)
def test_length_is_counted_as_the_server_does(
    instance: Instance, instance_url: str, bot: Account, text: str, by_graphemes: bool
) -> None:
    fits = by_graphemes and not instance.settings.profile.counts_code_points
    headers = {"Authorization": f"Bearer {bot.token}"}
    answer = requests.post(f"{instance_url}/api/v1/statuses", data={"status": text}, headers=headers, timeout=5)
    assert answer.status_code == (200 if fits else 422)


@pytest.mark.every_profile
def test_what_only_mastodon_has_is_missing_elsewhere(instance: Instance, instance_url: str, bot: Account) -> None:
    expected = 200 if instance.settings.profile is MASTODON else 404
    paths = ("/api/v1/statuses?id[]=1", "/api/v2/notifications/policy")
    assert {get(instance_url + path, bot.token).status_code for path in paths} == {expected}


@pytest.mark.parametrize(
    "profile",
    [MASTODON, POLLING, ULIDS, replace(MASTODON, says_wss=True)],
    indirect=True,
)
def test_the_description_names_the_streams_address_rightly_or_not(instance: Instance, instance_url: str) -> None:
    described = requests.get(f"{instance_url}/api/v2/instance", timeout=5).json()["configuration"]["urls"]["streaming"]
    scheme = "wss" if instance.settings.profile.says_wss else "ws"
    assert described == instance_url.replace("http", scheme)


@pytest.mark.every_profile
def test_events_are_sent_only_in_the_way_of_the_server(instance: Instance, instance_url: str, bot: Account) -> None:
    url = f"{instance_url}/api/v1/streaming/user"
    with requests.get(url, headers={"Authorization": f"Bearer {bot.token}"}, stream=True, timeout=5) as answer:
        assert answer.status_code == (200 if instance.settings.profile.server_sent_events else 404)
