"""Fixtures that several test files share."""

import signal
from collections.abc import Iterator

import pytest

from sandbox.instance import Instance, create_app
from sandbox.server import serve


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def instance() -> Instance:
    """A Mastodon instance without accounts; served where `instance_url` is asked for too."""
    return Instance()


@pytest.fixture
def instance_url(instance: Instance) -> Iterator[str]:
    """The address of `instance`, which is served on loopback while the test runs."""
    with serve(create_app(instance)) as url:
        yield url
