"""Fixtures that several test files share."""

import signal
import time
from collections.abc import Iterator

import pytest

from sandbox.instance import Instance, InstanceSettings, create_app
from sandbox.instance.profile import MASTODON, PROFILES, Profile
from sandbox.server import serve

STARTED = pytest.StashKey[float]()
LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--budget-s`, for `make quick`."""
    parser.addoption("--budget-s", type=float, help="begin no test after so many seconds")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Records when the run started."""
    session.config.stash[STARTED] = time.monotonic()
    session.config.stash[LEFT_OUT] = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Leaves a test out once the budget is used up."""
    budget_s, stash = item.config.getoption("budget_s"), item.config.stash
    if budget_s is None or time.monotonic() - stash[STARTED] <= budget_s:
        return None
    stash[LEFT_OUT] += 1
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says how many tests the budget left out."""
    if n_left_out := config.stash[LEFT_OUT]:
        over = f"{n_left_out} tests were left out, as {config.getoption('budget_s'):g} s are over"
        terminalreporter.write_line(f"{over}; `make test` runs them")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """Restores SIGINT, which a shell ignores for background processes; their children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test with the mark `every_profile` on each kind of server."""
    if "profile" in metafunc.fixturenames and metafunc.definition.get_closest_marker("every_profile"):
        metafunc.parametrize("profile", PROFILES, indirect=True, ids=lambda profile: profile.name)


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> Profile:
    """The rules of the test's instance; Mastodon's unless the test has the mark `every_profile`."""
    return getattr(request, "param", MASTODON)


@pytest.fixture
def instance(profile: Profile) -> Instance:
    """An instance without accounts; served if the test uses `instance_url`."""
    return Instance(InstanceSettings(profile=profile))


@pytest.fixture
def instance_url(instance: Instance) -> Iterator[str]:
    """The address of `instance`, served on loopback during the test."""
    with serve(create_app(instance)) as url:
        yield url
