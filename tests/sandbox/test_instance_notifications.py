"""Notifications: pages, filters, policy and requests."""

from __future__ import annotations

import pytest
import requests
from mastodon.errors import MastodonAPIError, MastodonNotFoundError

from sandbox.instance import Account, Instance
from tests.sandbox.conftest import Client, bearer, listen


def mention(instance: Instance, alice: Account, n: int) -> None:
    for number in range(n):
        instance.post(alice, f"@dokocos {number}")


def test_ids_are_strings_of_numbers_and_get_one_more_digit(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    mention(instance, alice, 7)
    found = requests.get(f"{instance_url}/api/v1/notifications", headers=bearer(bot.token), timeout=10).json()
    assert [each["id"] for each in found] == ["101", "100", "99", "98", "97", "96", "95"]


def test_min_id_reads_a_gap_page_by_page(client: Client, instance: Instance, bot: Account, alice: Account) -> None:
    mention(instance, alice, 90)
    cursor, seen = 95, []
    while page := client(bot).notifications(types=["mention"], min_id=cursor, limit=40):
        seen += [int(each.id) for each in reversed(page)]
        cursor = seen[-1]
    assert seen == list(range(96, 185))


def test_since_id_skips_the_older_part_of_a_long_gap(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    mention(instance, alice, 90)
    page = client(bot).notifications(since_id=95)
    assert [int(each.id) for each in page] == list(range(184, 144, -1))


def test_a_page_has_40_by_default_and_at_most_80(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    mention(instance, alice, 90)
    api = client(bot)
    assert (len(api.notifications()), len(api.notifications(limit=500))) == (40, 80)


def test_link_headers_give_all_pages(client: Client, instance: Instance, bot: Account, alice: Account) -> None:
    mention(instance, alice, 7)
    api = client(bot)
    first = api.notifications(types=["mention"], limit=3)
    assert [int(each.id) for each in api.fetch_remaining(first)] == list(range(101, 94, -1))
    assert not api.fetch_previous(first)
    mention(instance, alice, 1)
    assert [int(each.id) for each in api.fetch_previous(first)] == [102]


def test_types_can_be_selected_and_excluded(client: Client, instance: Instance, bot: Account, alice: Account) -> None:
    mention(instance, alice, 1)
    instance.follow(alice, bot)
    api = client(bot)
    assert [each.type for each in api.notifications(types=["mention"])] == ["mention"]
    assert [each.type for each in api.notifications(exclude_types=["mention"])] == ["follow"]


def test_deleting_a_mention_deletes_its_notification(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    status = instance.post(alice, "@dokocos hi")
    (notification,) = client(bot).notifications()
    instance.delete(status)
    assert client(bot).notifications() == []
    with pytest.raises(MastodonNotFoundError):
        client(bot).notifications(id=notification.id)


def test_mentioning_oneself_gives_no_notification(client: Client, instance: Instance, bot: Account) -> None:
    instance.post(bot, "@dokocos it is me")
    assert client(bot).notifications() == []


def test_an_edit_that_adds_a_mention_notifies_once(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    status = instance.post(alice, "hello")
    instance.edit(status, "@dokocos hello")
    instance.edit(status, "@dokocos hello again")
    assert [each.status.content.endswith(" hello again</p>") for each in client(bot).notifications()] == [True]


def test_a_lower_id_can_appear_after_a_higher_one(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    instance.notifications.hold_next()
    mention(instance, alice, 2)
    assert [int(each.id) for each in client(bot).notifications()] == [96]
    instance.notifications.release()
    assert [int(each.id) for each in client(bot).notifications()] == [96, 95]


def test_a_private_mention_of_a_stranger_is_filtered_and_sends_no_event(
    client: Client, instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    api = client(bot)
    with listen(instance_url, bot.token) as stream:
        instance.post(alice, "@dokocos psst", visibility="direct")
        instance.post(alice, "@dokocos aloud")
        name, event = stream.event()
    assert (name, event["status"]["visibility"]) == ("notification", "public")
    assert [each.status.visibility for each in api.notifications()] == ["public"]
    answer = requests.get(
        f"{instance_url}/api/v1/notifications?include_filtered=true", headers=bearer(bot.token), timeout=10
    )
    assert [each.get("filtered", False) for each in answer.json()] == [False, True]
    policy = api.notifications_policy()
    assert policy.for_private_mentions == "filter"
    assert policy.summary.pending_notifications_count == 1


def test_a_private_answer_to_a_private_mention_is_not_filtered(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    first = instance.post(bot, "@alice psst", visibility="direct")
    instance.post(alice, "@dokocos what?", visibility="direct", in_reply_to=first)
    assert len(client(bot).notifications()) == 1


def test_private_mentions_by_followed_accounts_are_not_filtered(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    client(bot).account_follow(alice.id)
    instance.post(alice, "@dokocos psst", visibility="direct")
    assert len(client(bot).notifications(types=["mention"])) == 1


def test_the_policy_can_accept_private_mentions(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    client(bot).update_notifications_policy(for_private_mentions="accept")
    instance.post(alice, "@dokocos psst", visibility="direct")
    assert len(client(bot).notifications()) == 1
    with pytest.raises(MastodonAPIError):
        client(bot).update_notifications_policy(for_new_accounts="maybe")


def test_a_request_can_be_read_and_accepted(client: Client, instance: Instance, bot: Account, alice: Account) -> None:
    api = client(bot)
    for _ in range(2):
        instance.post(alice, "@dokocos psst", visibility="direct")
    (request,) = api.notification_requests()
    assert (request.account.acct, int(request.notifications_count)) == ("alice", 2)
    api.accept_notification_request(request.id)
    assert len(api.notifications()) == 2
    assert api.notification_requests() == []
    instance.post(alice, "@dokocos again", visibility="direct")
    assert len(api.notifications()) == 3


def test_a_request_can_be_dismissed(client: Client, instance: Instance, bot: Account, alice: Account) -> None:
    instance.post(alice, "@dokocos psst", visibility="direct")
    api = client(bot)
    api.dismiss_notification_request(api.notification_requests()[0].id)
    assert api.notification_requests() == []
    assert api.notifications() == []


def test_reading_notifications_needs_its_scope(instance: Instance, instance_url: str, bot: Account) -> None:
    answers = [
        requests.get(f"{instance_url}/api/v1/notifications", headers=bearer(instance.token(bot, scope)), timeout=10)
        for scope in ("read:statuses", "read:notifications")
    ]
    assert [answer.status_code for answer in answers] == [403, 200]
    assert answers[0].json() == {"error": "This action is outside the authorized scopes"}


def test_a_muted_account_gives_no_notifications(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    client(bot).account_mute(alice.id)
    mention(instance, alice, 1)
    assert client(bot).notifications() == []
    client(bot).account_unmute(alice.id)
    mention(instance, alice, 1)
    assert len(client(bot).notifications()) == 1
