"""Whatever headers, redirects and values a server answers with, a call ends in a result or in an `InstanceError`."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bot.config import MastodonSettings
from bot.errors import InstanceError
from bot.instance import parse
from bot.instance.client import Client
from bot.instance.limits import MAX_WINDOW_S, Limits
from tests.odd_web import HEADERS, RawServer, any_value, head

STATUSES = [
    b"200 OK",
    b"301 Moved",
    b"307 \x1b[2J",
    b"401 No",
    b"403 No",
    b"404 No",
    b"429 Wait",
    b"500 \x9bm",
    b"999 ?",
]
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.close()


@pytest.fixture
def sockets_collected() -> Iterator[None]:
    """Collects here what urllib3 leaves open of an answer with two lengths (urllib3.exceptions.InvalidHeader)."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("sockets_collected")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(STATUSES),
    st.lists(st.tuples(st.sampled_from(HEADERS), any_value), max_size=5),
    st.sampled_from([b"", b"{}", b"null", b'{"error": "\\ud800\\u202e"}', b"\xff", b'{"id": 1e999}']),
)
@example(b"301 Moved", [("Location", "http://8080\\[.\\80@")], b"")
@example(b"200 OK", [("X-RateLimit-Remaining", "9" * 5000), ("X-RateLimit-Reset", "2099-01-01T00:00:00Z")], b"{}")
@example(b"200 OK", [("Content-Type", "application/json; charset=undefined")], b"{}")
@example(b"301 Moved", [("Content-Length", "-25")], b"")
@example(b"200 OK", [("Set-Cookie", "a=b; expires=Wed, 99 Foo 0000 99:99:99 GMT; path=/")], b"{}")
def test_no_answer_raises_anything_but_our_own_error(
    server: RawServer, status: bytes, headers: list[tuple[str, str]], body: bytes
) -> None:
    server.answer = head(status, [*headers, ("Content-Length", str(len(body)))]) + body
    settings = MastodonSettings(base_url=server.url, allow_http=True, request_timeout_s=2.0)
    client = Client(settings, "s3cret", user_agent="test", now=lambda: NOW)
    for call in (lambda: client.reader.status("1"), client.home.instance, client.home.me):
        try:
            call()
        except InstanceError as error:
            said = str(error)
        else:
            continue
        assert said.isprintable()
        assert "s3cret" not in said
    client.calls.api().session.close()


@given(st.dictionaries(st.sampled_from(HEADERS), any_value), st.sampled_from([200, 429]))
def test_no_header_makes_a_limit_that_lasts_for_ever(headers: dict[str, str], status: int) -> None:
    limits = Limits(now=lambda: NOW)
    limits.note("call", headers, status=status)
    until = limits.blocked_until("call")
    assert until is None or NOW < until <= NOW + MAX_WINDOW_S


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats() | any_value
NAMES = st.sampled_from(["id", "name", "value"])
ANYTHING = SIMPLE | st.lists(SIMPLE, max_size=2) | st.dictionaries(NAMES, SIMPLE, max_size=2)
FIELDS = (
    "id created_at content language spoiler_text sensitive media_attachments in_reply_to_id mentions reblog visibility "
    "account acct username note fields display_name bot url preview_url remote_url type"
)
ENTITY = st.dictionaries(st.sampled_from(FIELDS.split()), ANYTHING, max_size=4)


@settings(max_examples=120, deadline=None)
@given(ENTITY, ENTITY)
def test_a_status_with_values_of_any_kind_is_parsed_or_refused(
    ours: dict[str, object], theirs: dict[str, object]
) -> None:
    account = {"id": "1", "acct": "alice", "created_at": None} | theirs
    raw = {"id": "2", "account": account, "created_at": "2026-03-02T12:00:00Z", "media_attachments": [theirs]} | ours
    try:
        found = parse.status(json.loads(json.dumps(raw)))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return  # `Calls.readable` turns these into an `InstanceError`
    assert isinstance(found.text, str)
    assert isinstance(found.spoiler_text, str)
    assert found.language is None or isinstance(found.language, str)
    assert isinstance(found.account.profile, str)
    assert all(isinstance(url, str) for each in found.attachments for url in each.urls)
