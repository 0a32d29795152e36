"""Posting, threads, visibility, Idempotency-Keys, edits and deletions, with the real Mastodon.py."""

from __future__ import annotations

import dataclasses

import pytest
import requests
from mastodon.errors import MastodonAPIError, MastodonInternalServerError, MastodonNotFoundError

from sandbox.instance import Account, Instance, InstanceSettings, create_app
from sandbox.server import serve
from tests.sandbox.conftest import Client, bearer


class Clock:
    """A manual clock."""

    def __init__(self) -> None:
        self.now = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_reply_is_in_its_thread(client: Client, instance: Instance, bot: Account, alice: Account) -> None:
    api = client(bot)
    question = instance.post(alice, "@dokocos which gallery?")
    reply = api.status_post("@alice Japan", in_reply_to_id=question.id, visibility="unlisted", language="en")
    context = api.status_context(question.id)
    assert [each.id for each in context.descendants] == [reply.id]
    assert [int(each.id) for each in api.status_context(reply.id).ancestors] == [question.id]
    assert int(reply.in_reply_to_account_id) == alice.id
    assert [each.acct for each in reply.mentions] == ["alice"]
    assert instance.replies_to(question) == instance.statuses_of(bot)


def test_replies_are_counted_until_they_are_deleted(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    question = instance.post(alice, "hi")
    replies = [instance.post(bot, "hello", in_reply_to=question) for _ in range(2)]
    assert client(bot).status(question.id).replies_count == 2
    instance.delete(replies[0])
    assert client(bot).status(question.id).replies_count == 1


def test_a_thread_is_listed_depth_first(client: Client, instance: Instance, bot: Account) -> None:
    start = instance.post(bot, "1")
    first = instance.post(bot, "2", in_reply_to=start)
    instance.post(bot, "4", in_reply_to=start)
    instance.post(bot, "3", in_reply_to=first)
    texts = [each.content for each in client(bot).status_context(start.id).descendants]
    assert texts == ["<p>2</p>", "<p>3</p>", "<p>4</p>"]


def test_a_json_body_is_read_like_a_form(instance_url: str, bot: Account) -> None:
    body = {"status": "hello", "visibility": "private", "sensitive": True, "media_ids": []}
    posted = requests.post(f"{instance_url}/api/v1/statuses", json=body, headers=bearer(bot.token), timeout=10).json()
    assert (posted["content"], posted["visibility"], posted["sensitive"]) == ("<p>hello</p>", "private", True)


def test_a_reply_to_a_deleted_status_is_refused_with_the_real_error(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    question = instance.post(alice, "@dokocos hi")
    instance.delete(question)
    with pytest.raises(MastodonNotFoundError) as caught:
        client(bot).status_post("@alice hi", in_reply_to_id=question.id)
    assert caught.value.args[3] == "The post you are trying to reply to does not appear to exist."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x" * 501, "Validation failed: Text character limit of 500 exceeded"),
        (" ", "Validation failed: Text can't be blank"),
    ],
)
def test_an_invalid_text_is_refused(client: Client, bot: Account, text: str, problem: str) -> None:
    with pytest.raises(MastodonAPIError) as caught:
        client(bot).status_post(text)
    assert caught.value.args[1] == 422
    assert caught.value.args[3] == problem


def test_a_text_at_the_limit_is_accepted(client: Client, bot: Account) -> None:
    text = "x" * 470 + " https://example.com/" + "y" * 300 + " @a👨‍👩‍👧"
    assert client(bot).status_post(text).id


@pytest.mark.parametrize(
    ("visibility", "seen_by"),
    [
        ("public", {"nobody", "stranger", "follower", "mentioned"}),
        ("unlisted", {"nobody", "stranger", "follower", "mentioned"}),
        ("private", {"follower", "mentioned"}),
        ("direct", {"mentioned"}),
    ],
)
def test_visibility_decides_who_sees_a_status(
    client: Client, instance: Instance, instance_url: str, alice: Account, visibility: str, seen_by: set[str]
) -> None:
    viewers = {name: instance.add_account(name) for name in ("stranger", "follower", "mentioned")}
    instance.follow(viewers["follower"], alice)
    status = instance.post(alice, "@mentioned look", visibility=visibility)
    seen = set()
    for name, account in viewers.items():
        try:
            assert client(account).status(status.id).visibility == visibility
            seen.add(name)
        except MastodonNotFoundError:
            assert not client(account).account_statuses(alice.id)
    if requests.get(f"{instance_url}/api/v1/statuses/{status.id}", timeout=10).ok:
        seen.add("nobody")
    assert seen == seen_by


def test_a_blocked_account_sees_nothing_and_gives_no_notifications(
    client: Client, instance: Instance, bot: Account, alice: Account
) -> None:
    status = instance.post(alice, "hello")
    client(alice).account_block(bot.id)
    with pytest.raises(MastodonNotFoundError):
        client(bot).status(status.id)
    instance.post(bot, "@alice hello?")
    assert client(alice).notifications() == []
    assert client(bot).account_relationships([alice.id])[0].blocked_by


def test_a_block_ends_following_both_ways(client: Client, instance: Instance, bot: Account, alice: Account) -> None:
    instance.follow(alice, bot)
    instance.follow(bot, alice)
    stand = client(alice).account_block(bot.id)
    assert (stand.blocking, stand.following, stand.followed_by) == (True, False, False)


def post_twice(version: str, *, lag_s: float = 0, later_s: float = 0) -> tuple[Instance, list[requests.Response]]:
    """Post with one Idempotency-Key, move the clock, and post again."""
    clock = Clock()
    instance = Instance(InstanceSettings(version=version, idempotency_lag_s=lag_s), clock=clock)
    token = instance.add_account("dokocos").token
    answers = []
    with serve(create_app(instance)) as url:
        for _ in range(2):
            headers = bearer(token) | {"Idempotency-Key": "mention-8841"}
            answers.append(requests.post(f"{url}/api/v1/statuses", data={"status": "hi"}, headers=headers, timeout=10))
            clock.now += later_s
    return instance, answers


@pytest.mark.parametrize("version", ["4.5.15", "4.6.6", "4.7.0"])
def test_a_repeated_key_returns_the_first_status(version: str) -> None:
    instance, answers = post_twice(version, later_s=3599)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len(instance.statuses) == 1


@pytest.mark.parametrize("version", ["4.6.0", "4.6.5", "4.6.5+glitch"])
def test_a_repeated_key_gets_500_from_affected_versions(version: str) -> None:
    instance, answers = post_twice(version, later_s=3599)
    assert [answer.status_code for answer in answers] == [200, 500]
    assert answers[1].headers["content-type"].startswith("text/html")
    assert len(instance.statuses) == 1


def test_a_key_is_forgotten_after_an_hour() -> None:
    instance, answers = post_twice("4.6.5", later_s=3600)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(instance.statuses) == 2


def test_a_repeat_during_the_first_post_posts_twice_up_to_4_5() -> None:
    instance, answers = post_twice("4.5.15", lag_s=5, later_s=1)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(instance.statuses) == 2


def test_a_repeat_during_the_first_post_gets_503_from_4_6() -> None:
    instance, answers = post_twice("4.6.5", lag_s=5, later_s=1)
    assert [answer.status_code for answer in answers] == [200, 503]
    assert len(instance.statuses) == 1


def test_deleting_a_status_keeps_its_text_attachments_and_replies(
    client: Client, instance: Instance, alice: Account, photo: bytes
) -> None:
    api = client(alice)
    media = api.media_post(photo, "image/jpeg")
    status = api.status_post("look", media_ids=[media])
    reply = instance.post(alice, "more", in_reply_to=status.id)
    assert api.status_delete(status.id).text == "look"
    assert reply.in_reply_to_id is None
    assert api.status_post("again", media_ids=[media]).media_attachments[0].id == media.id


def test_statuses_of_another_account_cannot_be_deleted_or_edited(
    client: Client, instance: Instance, alice: Account, bot: Account
) -> None:
    status = instance.post(alice, "mine")
    for change in (client(bot).status_delete, lambda each: client(bot).status_update(each, "yours")):
        with pytest.raises(MastodonNotFoundError):
            change(status.id)
    assert instance.status(status).text == "mine"


def test_an_edit_changes_the_text_and_sets_edited_at(client: Client, instance: Instance, alice: Account) -> None:
    status = instance.post(alice, "befor")
    client(alice).status_update(status.id, "before")
    edited = client(alice).status(status.id)
    assert edited.content == "<p>before</p>"
    assert edited.edited_at is not None


def test_a_boost_is_a_separate_status_and_notifies_the_author(
    client: Client, instance: Instance, alice: Account, bot: Account
) -> None:
    status = instance.post(alice, "look")
    boost = client(bot).status_reblog(status.id)
    assert int(boost.reblog.id) == status.id
    assert client(bot).status_reblog(status.id).id == boost.id
    client(bot).status_favourite(status.id)
    assert [each.type for each in client(alice).notifications()] == ["favourite", "reblog"]
    client(bot).status_unreblog(status.id)
    assert instance.statuses_of(bot) == []


def test_several_statuses_can_be_read_at_once_without_the_missing_ones(
    client: Client, instance: Instance, alice: Account
) -> None:
    first, second = instance.post(alice, "1"), instance.post(alice, "2", visibility="direct")
    stranger = instance.add_account("bob")
    ids = [first.id, second.id, 17]
    assert [int(each.id) for each in client(stranger).statuses(ids)] == [first.id]


def test_unknown_ids_and_routes_are_404_in_json(instance_url: str, bot: Account) -> None:
    for path, problem in (
        ("statuses/17", "Record not found"),
        ("statuses/x", "Record not found"),
        ("nothing", "Not Found"),
    ):
        answer = requests.get(f"{instance_url}/api/v1/{path}", headers=bearer(bot.token), timeout=10)
        assert (answer.status_code, answer.json()) == (404, {"error": problem})


def test_settings_can_change_while_it_runs(client: Client, instance: Instance, bot: Account) -> None:
    instance.settings = dataclasses.replace(instance.settings, max_characters=5)
    assert client(bot).instance_v2().configuration.statuses.max_characters == 5
    with pytest.raises(MastodonAPIError):
        client(bot).status_post("123456")


def test_a_server_error_is_json_if_json_is_accepted(instance_url: str, bot: Account) -> None:
    headers = bearer(bot.token) | {"Idempotency-Key": "k", "Accept": "application/json"}
    for _ in range(2):
        answer = requests.post(f"{instance_url}/api/v1/statuses", data={"status": "x"}, headers=headers, timeout=10)
    assert answer.json() == {"status": 500, "error": "Internal Server Error"}


def test_mastodon_py_raises_its_own_error_for_it(client: Client, bot: Account) -> None:
    api = client(bot)
    api.status_post("x", idempotency_key="k")
    with pytest.raises(MastodonInternalServerError):
        api.status_post("x", idempotency_key="k")
