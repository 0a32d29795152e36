"""Fixtures that several test files share."""

from collections.abc import Iterator

import pytest

from sandbox.instance import Instance, create_app
from sandbox.server import serve


@pytest.fixture
def instance() -> Instance:
    """A Mastodon instance without accounts; served where `instance_url` is asked for too."""
    return Instance()


@pytest.fixture
def instance_url(instance: Instance) -> Iterator[str]:
    """The address of `instance`, which is served on loopback while the test runs."""
    with serve(create_app(instance)) as url:
        yield url
