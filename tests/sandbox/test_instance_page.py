"""The instance's web page: threads, languages, posting, and escaping."""

from __future__ import annotations

import re

import pytest
import requests

from sandbox.instance import Account, Instance
from tests.sandbox.conftest import picture


@pytest.fixture
def you(instance: Instance) -> Account:
    return instance.add_account("you", display_name="You")


def page(url: str, path: str = "/", **headers: str) -> str:
    return requests.get(f"{url}{path}", headers=headers, timeout=10).text


def sections(html: str) -> list[str]:
    """The ids of the statuses shown, in order."""
    return re.findall(r'<section class="post[^"]*" id="s(\d+)"', html)


def test_threads_are_grouped_and_the_newest_is_first(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    first = instance.post(alice, "@dokocos first")
    second = instance.post(alice, "@dokocos second")
    reply = instance.post(bot, "@alice Japan", in_reply_to=first, visibility="unlisted")
    assert sections(page(instance_url)) == [str(each.id) for each in (second, first, reply)]


@pytest.mark.usefixtures("you")
def test_the_page_shows_only_statuses_visible_to_you(instance: Instance, instance_url: str, alice: Account) -> None:
    shown = instance.post(alice, "@you psst", visibility="direct")
    instance.post(alice, "for followers", visibility="private")
    assert sections(page(instance_url)) == [str(shown.id)]


def test_statuses_and_accounts_have_their_own_pages(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    question, other = instance.post(alice, "@dokocos hi"), instance.post(alice, "something else")
    reply = instance.post(bot, "@alice Japan", in_reply_to=question)
    thread = [str(question.id), str(reply.id)]
    assert sections(page(instance_url, f"/@dokocos/{reply.id}")) == thread
    assert sections(page(instance_url, "/@dokocos")) == thread
    assert sections(page(instance_url, "/@alice")) == [str(other.id), *thread]


@pytest.mark.parametrize(
    ("path", "accept", "language"),
    [
        ("/", "", "en"),
        ("/", "ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        ("/", "fr;q=1, en;q=0.5, ja;q=0.8", "ja"),
        ("/", "nonsense;q=x", "en"),
        ("/?lang=ja", "en", "ja"),
        ("/?lang=xx", "ja", "ja"),
    ],
)
def test_the_page_uses_the_browsers_language(instance_url: str, path: str, accept: str, language: str) -> None:
    html = page(instance_url, path, **{"Accept-Language": accept})
    assert f'<html lang="{language}">' in html
    assert ("まだ投稿がありません" in html) == (language == "ja")


@pytest.mark.usefixtures("you")
def test_user_input_is_escaped(instance: Instance, instance_url: str, photo: bytes) -> None:
    attack = "<img src=x onerror=alert(1)>\"'>"
    mallory = instance.add_account("mallory", display_name=attack)
    media = instance.attach(mallory, photo, description=attack)
    instance.post(mallory, f"{attack} @you", attachments=[media], spoiler_text=attack)
    requests.post(instance_url, data={"text": attack}, timeout=10)
    html = page(instance_url)
    assert "<img src=x" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") >= 4
    assert all(re.fullmatch(r'[^"<>]*', value) for value in re.findall(r'alt="([^"]*)"', html))


@pytest.mark.usefixtures("you")
def test_the_page_loads_no_external_resources(instance_url: str) -> None:
    answer = requests.get(instance_url, timeout=10)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    nonce = re.search(r"'nonce-([^']+)'", answer.headers["content-security-policy"])
    assert nonce is not None
    assert re.findall(r"<script([^>]*)>", answer.text) == [f' nonce="{nonce[1]}"']
    assert not re.findall(r'(?:src|href)="(?!/|\?|data:,|http://127\.0\.0\.1)', answer.text)


def test_a_photo_can_be_posted_to_the_bot(instance: Instance, instance_url: str, bot: Account, you: Account) -> None:
    assert ">@dokocos which gallery does this look like?</textarea>" in page(instance_url)
    answer = requests.post(
        f"{instance_url}/?lang=ja",
        data={"text": "@dokocos どこコス?", "description": "赤い絵"},
        files=[("photos", ("a.jpg", picture(60, 40))), ("photos", ("b.jpg", picture(40, 60)))],
        timeout=10,
    )
    assert answer.history[0].status_code == 303
    (status,) = instance.statuses_of(you)
    assert (status.language, status.mentions, len(status.media)) == ("ja", (bot,), 2)
    assert answer.text.count('alt="赤い絵"') == 2


def test_a_refused_post_keeps_the_input(instance: Instance, instance_url: str, you: Account) -> None:
    files = {"photos": ("a.jpg", b"no picture")}
    answer = requests.post(instance_url, data={"text": "my words"}, files=files, timeout=10)
    assert answer.status_code == 422
    assert "File type of uploaded media could not be verified" in answer.text
    assert ">my words</textarea>" in answer.text
    assert instance.statuses_of(you) == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_another_site_cannot_post(instance: Instance, instance_url: str, you: Account, origin: str) -> None:
    headers = {"Origin": origin}
    answer = requests.post(instance_url, data={"text": "@dokocos spam"}, headers=headers, timeout=10)
    assert answer.status_code == 403
    assert instance.statuses_of(you) == []


def test_without_the_account_you_there_is_no_form(instance_url: str) -> None:
    assert "<form" not in page(instance_url)
    assert requests.post(instance_url, data={"text": "x"}, timeout=10).status_code == 403


def test_new_statuses_are_sent_only_if_there_are_any(instance: Instance, instance_url: str, alice: Account) -> None:
    first = requests.get(f"{instance_url}/threads", timeout=10)
    again = {"If-None-Match": first.headers["etag"]}
    assert requests.get(f"{instance_url}/threads", headers=again, timeout=10).status_code == 304
    status = instance.post(alice, "news")
    changed = requests.get(f"{instance_url}/threads", headers=again, timeout=10)
    assert (changed.status_code, sections(changed.text)) == (200, [str(status.id)])


def test_a_content_warning_hides_text_and_photos_until_opened(
    instance: Instance, instance_url: str, alice: Account, photo: bytes
) -> None:
    instance.post(alice, "hidden", spoiler_text="Fake blood", attachments=[instance.attach(alice, photo)])
    instance.post(alice, "shown", sensitive=True, attachments=[instance.attach(alice, photo)])
    html = re.sub(r"(?s)<(details|style).*?</\1>", "", page(instance_url))
    assert "<p>hidden<" not in html
    assert "<p>shown<" in html
    assert "<img" not in html
