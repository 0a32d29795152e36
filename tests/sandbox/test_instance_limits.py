"""Rate limits: their headers, their windows, their callers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest
import requests

from sandbox.instance import Account, Instance, InstanceSettings, RateLimit, create_app
from sandbox.server import serve
from tests.sandbox.conftest import bearer, picture

START = 1_780_000_000.25  # 2026-05-28T20:26:40.250Z


class Server:
    """An instance with small limits and a manual clock."""

    def __init__(self, **limits: RateLimit) -> None:
        self.now = START
        self.instance = Instance(InstanceSettings(rate_limits=limits), clock=lambda: self.now)
        self.account = self.instance.add_account("dokocos")
        self.url = ""

    def call(self, method: str, path: str, token: str | None = None, **options: object) -> requests.Response:
        headers = bearer(token or self.account.token)
        return requests.request(method, f"{self.url}/api/v1/{path}", headers=headers, timeout=10, **options)  # type: ignore[arg-type]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(**request.param)
    with serve(create_app(server.instance)) as server.url:
        yield server


def limited(**limits: RateLimit) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", [limits], indirect=True)


@limited(token=RateLimit(2, 300))
def test_each_response_has_the_remaining_calls_and_the_reset_time(server: Server) -> None:
    answers = [server.call("GET", "notifications") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"2"}
    assert {answer.headers["X-RateLimit-Reset"] for answer in answers} == {"2026-05-28T20:30:00.250000Z"}
    assert answers[2].json() == {"error": "Too many requests"}
    assert "Retry-After" not in answers[2].headers


@limited(token=RateLimit(1, 300))
def test_windows_are_aligned_to_the_clock(server: Server) -> None:
    server.call("GET", "notifications")
    reset = datetime.fromisoformat(server.call("GET", "notifications").headers["X-RateLimit-Reset"]).timestamp()
    server.now = reset
    assert server.call("GET", "notifications").status_code == 200


@limited(token=RateLimit(1, 300))
def test_another_token_has_its_own_count(server: Server) -> None:
    server.call("GET", "notifications")
    assert server.call("GET", "notifications", server.instance.token(server.account)).status_code == 200


@limited(account=RateLimit(1, 300), token=RateLimit(9, 300))
def test_the_tokens_of_an_account_share_its_count(server: Server) -> None:
    server.call("GET", "notifications")
    answer = server.call("GET", "notifications", server.instance.token(server.account))
    assert (answer.status_code, answer.headers["X-RateLimit-Limit"]) == (429, "1")


@limited(token=RateLimit(9, 300), media=RateLimit(1, 1800))
def test_uploads_have_a_separate_limit(server: Server) -> None:
    answers = [server.call("POST", "media", files={"file": picture(20, 20)}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert server.call("GET", "notifications").headers["X-RateLimit-Remaining"] == "6"


@limited(token=RateLimit(9, 300), paging=RateLimit(1, 900))
def test_paging_has_a_separate_limit(server: Server) -> None:
    assert [server.call("GET", "notifications?min_id=1").status_code for _ in range(2)] == [200, 429]
    assert server.call("GET", "notifications").status_code == 200


@limited(token=RateLimit(99, 300), statuses=RateLimit(1, 10800))
def test_posts_have_a_separate_limit_and_only_stored_ones_count(server: Server) -> None:
    refused = server.call("POST", "statuses", data={"status": ""})
    posted = server.call("POST", "statuses", data={"status": "hello"})
    late = server.call("POST", "statuses", data={"status": "hello again"})
    assert [answer.status_code for answer in (refused, posted, late)] == [422, 200, 429]
    assert (posted.headers["X-RateLimit-Limit"], posted.headers["X-RateLimit-Remaining"]) == ("1", "0")


@limited(token=RateLimit(9, 300), deletes=RateLimit(1, 1800))
def test_deletions_have_a_separate_limit(server: Server) -> None:
    statuses = [server.instance.post(server.account, "x") for _ in range(2)]
    answers = [server.call("DELETE", f"statuses/{status.id}") for status in statuses]
    assert [answer.status_code for answer in answers] == [200, 429]


@limited()
def test_limits_can_be_turned_off(server: Server) -> None:
    assert not [name for name in server.call("GET", "notifications").headers if "ratelimit" in name.lower()]


def test_the_defaults_are_the_real_servers(instance_url: str, bot: Account) -> None:
    answer = requests.get(f"{instance_url}/api/v1/notifications", headers=bearer(bot.token), timeout=10)
    assert (answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"]) == ("300", "299")
