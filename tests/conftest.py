"""Fixtures that several test files share."""

import signal
import time
from collections.abc import Iterator

import pytest

from sandbox.instance import Instance, create_app
from sandbox.server import serve

STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--budget-s`, for `make quick`."""
    parser.addoption("--budget-s", type=float, help="begin no test after so many seconds")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Records when the run started."""
    session.config.stash[STARTED] = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Ends the run before the next test once the budget is used up."""
    budget_s = item.config.getoption("budget_s")
    if budget_s is not None and time.monotonic() - item.config.stash[STARTED] > budget_s:
        raise item.session.Interrupted(f"the budget of {budget_s:g} s is used up; `make test` runs the rest")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """Restores SIGINT, which a shell ignores for background processes; their children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def instance() -> Instance:
    """A Mastodon instance without accounts; served if the test uses `instance_url`."""
    return Instance()


@pytest.fixture
def instance_url(instance: Instance) -> Iterator[str]:
    """The address of `instance`, served on loopback during the test."""
    with serve(create_app(instance)) as url:
        yield url
