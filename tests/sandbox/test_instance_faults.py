"""Each fault has the described effect for a client."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.faults import Fault, Faults
from sandbox.instance import Account, Instance
from sandbox.misbehaviour import FaultMiddleware
from sandbox.server import serve
from tests.sandbox.conftest import bearer, listen

STATUSES = "/api/v1/statuses"


@pytest.fixture(autouse=True)
def _people(bot: Account, alice: Account) -> None:
    """Create the accounts that send requests."""


def post(url: str, account: Account, text: str = "hello") -> requests.Response:
    return requests.post(f"{url}{STATUSES}", data={"status": text}, headers=bearer(account.token), timeout=10)


def test_an_answer_fault_applies_the_set_number_of_times_and_stores_nothing(
    instance: Instance, instance_url: str, bot: Account
) -> None:
    instance.faults.add(Fault(kind="answer", path=STATUSES, methods=("POST",), status=503, times=2))
    answers = [post(instance_url, bot) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json() == {"error": "Service Unavailable"}
    assert len(instance.statuses) == 1
    assert instance.faults.fired == {"answer": 2}


def test_a_proxys_error_is_a_page_without_rate_limit_headers(
    instance: Instance, instance_url: str, bot: Account
) -> None:
    instance.faults.add(Fault(kind="answer", status=502, html=True))
    answer = post(instance_url, bot)
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")
    assert "<h1>502 Bad Gateway</h1>" in answer.text
    assert not [name for name in answer.headers if "ratelimit" in name.lower()]


def test_a_rate_limit_can_be_simulated(instance: Instance, instance_url: str, bot: Account) -> None:
    instance.faults.add(Fault(kind="rate_limit", seconds=30))
    answer = post(instance_url, bot)
    assert (answer.status_code, answer.json()) == (429, {"error": "Too many requests"})
    assert answer.headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.parametrize(("kind", "n_stored"), [("cut", 0), ("store_then_cut", 1)])
def test_a_cut_connection_gives_no_response(
    instance: Instance, instance_url: str, bot: Account, kind: Any, n_stored: int
) -> None:
    instance.faults.add(Fault(kind=kind, path=STATUSES, times=1))
    with pytest.raises(requests.ConnectionError):
        post(instance_url, bot)
    assert len(instance.statuses) == n_stored
    assert post(instance_url, bot).status_code == 200


def test_a_status_can_be_stored_and_the_request_fail(instance: Instance, instance_url: str, bot: Account) -> None:
    instance.faults.add(Fault(kind="store_then_answer", path=STATUSES, status=500, times=1))
    assert post(instance_url, bot, "arrived").status_code == 500
    assert [status.text for status in instance.statuses_of(bot)] == ["arrived"]


@pytest.mark.parametrize(("kind", "n_stored"), [("delay", 0), ("store_then_delay", 1)])
def test_a_delay_can_come_before_or_after_the_request_is_handled(
    instance: Instance, instance_url: str, bot: Account, kind: Any, n_stored: int
) -> None:
    instance.faults.add(Fault(kind=kind, path=STATUSES, seconds=30, times=1))
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{instance_url}{STATUSES}", data={"status": "x"}, headers=bearer(bot.token), timeout=(10, 0.3))
    assert len(instance.statuses) == n_stored


def test_a_delay_can_be_combined_with_another_fault(instance: Instance, instance_url: str, bot: Account) -> None:
    instance.faults.add(Fault(kind="delay", seconds=0), Fault(kind="answer", status=500, times=1))
    assert [post(instance_url, bot).status_code for _ in range(2)] == [500, 200]


@pytest.fixture
def file_url(instance: Instance, instance_url: str, alice: Account, photo: bytes) -> str:
    url = str(instance.entities.media(instance.attach(alice, photo))["url"])
    assert url.startswith(instance_url)
    return url


def test_a_file_can_be_truncated(instance: Instance, file_url: str, photo: bytes) -> None:
    instance.faults.add(Fault(kind="truncate", path="/system/.*", keep=0.25))
    answer = requests.get(file_url, timeout=10)
    assert answer.content == photo[: len(photo) // 4]
    assert answer.headers["content-length"] == str(len(photo) // 4)


def test_a_file_can_end_in_the_middle(instance: Instance, file_url: str) -> None:
    instance.faults.add(Fault(kind="cut_body", path="/system/.*", keep=0.5))
    with pytest.raises(requests.exceptions.RequestException):
        requests.get(file_url, timeout=10)


def test_an_html_page_can_replace_a_photo(instance: Instance, file_url: str) -> None:
    instance.faults.add(Fault(kind="html", path="/system/.*"))
    answer = requests.get(file_url, timeout=10)
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/html")


def test_a_body_can_be_sent_slowly() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def file(_request: Request) -> Response:
        return Response(b"x" * 64)

    faults = Faults()
    faults.add(Fault(kind="drip", bytes_per_s=64))
    app = Starlette(routes=[Route("/", file)], middleware=[Middleware(FaultMiddleware, faults=faults, sleep=sleep)])
    with serve(app) as url:
        assert requests.get(url, timeout=10).content == b"x" * 64
    assert slept == [0.25] * 4


def test_a_body_can_be_endless(instance: Instance, file_url: str, photo: bytes) -> None:
    instance.faults.add(Fault(kind="endless", path="/system/.*", bytes_per_s=1_000_000))
    with requests.get(file_url, stream=True, timeout=10) as answer:
        assert "content-length" not in answer.headers
        found = answer.raw.read(100_000)
    assert found == photo.ljust(100_000, b"\0")


def test_a_file_can_be_redirected(instance: Instance, file_url: str) -> None:
    instance.faults.add(Fault(kind="redirect", path="/system/.*", location="http://127.0.0.1:9/secret"))
    answer = requests.get(file_url, allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["location"]) == (302, "http://127.0.0.1:9/secret")


def test_streams_can_be_refused_while_other_calls_work(instance: Instance, instance_url: str, bot: Account) -> None:
    instance.faults.add(Fault(kind="answer", path="/api/v1/streaming/.*", status=502, html=True))
    answer = requests.get(f"{instance_url}/api/v1/streaming/user?access_token={bot.token}", timeout=10)
    assert answer.status_code == 502
    assert post(instance_url, bot).status_code == 200


def test_open_streams_can_be_ended_or_cut(instance: Instance, instance_url: str, bot: Account) -> None:
    with listen(instance_url, bot.token) as stream:
        instance.faults.close_streams()
        assert stream.line() is None
    with listen(instance_url, bot.token) as stream:
        instance.faults.close_streams("cut")
        with pytest.raises(requests.exceptions.RequestException):
            stream.line()


def test_a_stalled_stream_stays_open_and_loses_events(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    with listen(instance_url, bot.token) as stream:
        instance.faults.stall_streams()
        instance.post(alice, "@dokocos lost")
        while instance.faults.swallowed < 1:
            pass
        instance.faults.stall_streams(False)
        instance.post(alice, "@dokocos heard")
        assert stream.event()[1]["status"]["content"].endswith(" heard</p>")


def test_a_body_fault_does_not_apply_to_event_streams(
    instance: Instance, instance_url: str, bot: Account, alice: Account
) -> None:
    instance.faults.add(Fault(kind="truncate"))
    with listen(instance_url, bot.token) as stream:
        instance.post(alice, "@dokocos hi")
        assert stream.event()[0] == "notification"


def chosen(seed: int) -> list[bool]:
    faults = Faults(seed=seed)
    faults.add(Fault(kind="cut", share=0.3))
    return [bool(faults.choose("GET", "/")) for _ in range(1000)]


def test_the_seed_determines_the_chosen_share() -> None:
    assert chosen(1) == chosen(1) != chosen(2)
    assert 250 < sum(chosen(1)) < 350


def test_faults_can_be_set_read_and_cleared_over_http(instance_url: str, bot: Account) -> None:
    address = f"{instance_url}/sandbox/faults"
    fault = {"kind": "answer", "path": STATUSES, "status": 500, "times": 5}
    set_ = requests.post(address, data=json.dumps({"seed": 3, "add": [fault], "stall_streams": True}), timeout=10)
    assert set_.json()["faults"] == [fault | {"left": 5}]
    assert post(instance_url, bot).status_code == 500
    read = requests.get(address, timeout=10).json()
    assert (read["faults"][0]["left"], read["streams_stalled"], read["fired"]) == (4, True, {"answer": 1})
    assert requests.post(address, json={"clear": True}, timeout=10).json()["faults"] == []
    assert post(instance_url, bot).status_code == 200


@pytest.mark.parametrize(
    "orders",
    [
        {"ad": []},
        {"add": [{"kind": "explode"}]},
        {"add": [{"kind": "cut", "share": 2}]},
        {"add": [{"kind": "cut", "path": "("}]},
        {"close_streams": "softly"},
    ],
)
def test_an_invalid_order_is_refused(instance: Instance, instance_url: str, orders: dict[str, Any]) -> None:
    answer = requests.post(f"{instance_url}/sandbox/faults", json=orders, timeout=10)
    assert answer.status_code == 422
    assert answer.json()["error"][0]["loc"]
    assert instance.faults.state()["faults"] == []
