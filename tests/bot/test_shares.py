"""What runs out is shared: an account and a host have a limit, and who was served least goes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bot.shares import Asker, Shares, asking, host_of
from tests.bot.conftest import until


class Queue:
    """Threads that hold units of a share until they are let go."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._let_go: dict[str, threading.Event] = {}
        self.holding: list[str] = []

    def ask(self, name: str, acct: str, n: int = 1) -> None:
        """Starts a thread that asks for `n` units."""
        self._let_go[name] = threading.Event()

        def hold() -> None:
            with asking(Asker(acct, host_of(acct))), self._shares.held(n):
                self.holding.append(name)
                self._let_go[name].wait(30)
            self.holding.remove(name)

        n_waiting = len(self._shares._wishes)
        threading.Thread(target=hold, daemon=True).start()
        until(lambda: name in self.holding or len(self._shares._wishes) > n_waiting)

    def end(self, name: str) -> None:
        """Lets a thread go, and waits until it holds nothing."""
        self._let_go[name].set()
        until(lambda: name not in self.holding)

    def end_all(self) -> None:
        for event in self._let_go.values():
            event.set()


@contextmanager
def queue(size: int, *, per_account: int, per_host: int) -> Iterator[Queue]:
    found = Queue(Shares(size, per_account=per_account, per_host=per_host))
    with ExitStack() as stack:
        stack.callback(found.end_all)
        yield found


def test_an_account_and_a_host_have_a_limit_and_what_is_left_is_for_others() -> None:
    with queue(6, per_account=2, per_host=3) as line:
        for number in range(4):
            line.ask(f"mallory{number}", "mallory@far.example")
        for number in range(4):
            line.ask(f"friend{number}", f"friend{number}@far.example")
        line.ask("bob", "bob@near.example")
        assert sorted(line.holding) == ["bob", "friend0", "mallory0", "mallory1"]


def test_who_was_served_least_goes_before_who_waits_longer() -> None:
    with queue(1, per_account=1, per_host=1) as line:
        line.ask("mallory's first", "mallory")
        line.ask("mallory's second", "mallory")
        line.ask("bob's", "bob")
        line.end("mallory's first")
        until(lambda: line.holding == ["bob's"])
        line.end("bob's")
        until(lambda: line.holding == ["mallory's second"])


def test_a_large_wish_waits_until_there_is_room_and_a_small_one_does_not_wait_for_it() -> None:
    with queue(10, per_account=8, per_host=10) as line:
        line.ask("first", "a", 6)
        line.ask("large", "b", 8)
        line.ask("small", "c", 2)
        assert sorted(line.holding) == ["first", "small"]
        line.end("first")
        until(lambda: "large" in line.holding)


def test_a_wish_above_the_share_of_an_account_is_cut_to_it() -> None:
    with queue(10, per_account=4, per_host=10) as line:
        line.ask("huge", "a", 1000)
        assert line.holding == ["huge"]


def test_a_host_is_what_stands_behind_the_name_in_lower_case() -> None:
    assert (host_of("bob@Far.Example"), host_of("alice")) == ("far.example", "")
