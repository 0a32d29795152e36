"""Shared fixtures of the instance's tests: accounts, clients, a photo, and a reader of event streams."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from mastodon import Mastodon
from PIL import Image

from sandbox.instance import Account, Instance


@pytest.fixture
def bot(instance: Instance) -> Account:
    return instance.add_account("dokocos", bot=True)


@pytest.fixture
def alice(instance: Instance) -> Account:
    return instance.add_account("alice", display_name="Alice")


Client = Callable[..., Any]


@pytest.fixture
def client(instance: Instance, instance_url: str) -> Iterator[Client]:
    """Create a Mastodon.py client for an account (and scopes)."""
    sessions: list[requests.Session] = []

    def make(account: Account, *scopes: str) -> Any:
        sessions.append(requests.Session())
        return Mastodon(
            access_token=instance.token(account, *scopes),
            api_base_url=instance_url,
            mastodon_version=instance.settings.version,
            ratelimit_method="throw",
            request_timeout=10,
            session=sessions[-1],
        )

    yield make
    for session in sessions:
        session.close()


@pytest.fixture
def photo() -> bytes:
    return picture(120, 80)


def picture(width: int, height: int, format_: str = "JPEG", **options: Any) -> bytes:
    """An image file of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 60)).save(out, format_, **options)
    return out.getvalue()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class EventStream:
    """Reads a stream of server-sent events frame by frame."""

    def __init__(self, response: requests.Response) -> None:
        self._lines = response.iter_lines(chunk_size=1, decode_unicode=True)

    def line(self) -> str | None:
        """The next line that is not empty; None at the end."""
        return next((line for line in self._lines if line), None)

    def event(self) -> tuple[str, Any]:
        """The next event's name and data, without heartbeats; ids are plain text, other data is JSON."""
        line = self.line()
        while line is not None and line.startswith(":"):
            line = self.line()
        assert line is not None, "the stream has ended"
        name = line.removeprefix("event: ")
        data = str(self.line()).removeprefix("data: ")
        return name, data if name == "delete" else json.loads(data)


@contextmanager
def listen(url: str, token: str, path: str = "user") -> Iterator[EventStream]:
    """Open a stream and read its first frame; it then receives all new events."""
    address = f"{url}/api/v1/streaming/{path}"
    with requests.get(address, headers=bearer(token), stream=True, timeout=10) as response:
        assert response.status_code == 200
        stream = EventStream(response)
        assert stream.line() == ":)"
        yield stream
