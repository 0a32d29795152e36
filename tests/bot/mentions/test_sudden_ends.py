"""A bot that dies before or after any step loses no mention and answers none twice.

A step is a database transaction or a call to the instance. After the death no step runs, as after `kill -9`; what was
written stays. `benchmarks.chaos` kills a real process at random times.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from bot.instance.calls import Calls
from bot.storage.cursor import Cursor
from bot.storage.inbox import Inbox
from bot.storage.opinions import Opinions
from bot.storage.store import Store
from tests.bot.conftest import World, settle, until

WRITES: tuple[tuple[type, str], ...] = (
    *((Inbox, name) for name in ("put", "take", "mark_posting", "defer", "finish", "admit", "requeue")),
    (Cursor, "move"),
    (Store, "belongs_to"),
    (Opinions, "note"),
)


class Killed(BaseException):
    """The bot is dead: no further step runs."""


class Death:
    """Kills the bot at step `n`; `late`: after the step was done, but before it returns."""

    def __init__(self, n: int, *, late: bool) -> None:
        self._n = n
        self._late = late
        self._count = 0
        self._lock = threading.Lock()
        self.has_come = False

    def meet(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def met(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._count += 1
                is_last = self._count == self._n
                if self.has_come or (is_last and not self._late):
                    self.has_come = True
                    raise Killed
            done = step(*args, **kwargs)
            if is_last:
                self.has_come = True
                raise Killed
            return done

        return met


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("n", range(1, 38, 3))
def test_a_bot_that_ends_at_any_step_answers_each_mention_once(world: World, n: int, *, late: bool) -> None:
    questions = [world.ask(), world.ask(label=None), world.ask(visibility="direct")]
    death = Death(n, late=late)
    with pytest.MonkeyPatch.context() as patch:
        for table, name in WRITES:
            patch.setattr(table, name, death.meet(getattr(table, name)))
        patch.setattr(Calls, "call", death.meet(Calls.call))
        try:
            with world.bot(bot={"concurrent_mentions": 2}) as bot:
                until(lambda: death.has_come or bot.store.inbox.counts().get("answered") == len(questions))
        except Killed:
            pass
    with world.bot() as bot:
        until(lambda: bot.store.inbox.counts().get("answered") == len(questions))
        settle(bot)
    assert [len(world.answers(question)) for question in questions] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("n", range(1, 12, 2))
def test_a_bot_that_ends_at_any_step_notes_an_opinion_and_thanks_for_it_once(
    world: World, n: int, *, late: bool
) -> None:
    death = Death(n, late=late)
    with pytest.MonkeyPatch.context() as patch, suppress(Killed), world.bot() as bot:
        answer = world.answer(world.ask())
        settle(bot)
        for table, name in WRITES:
            patch.setattr(table, name, death.meet(getattr(table, name)))
        patch.setattr(Calls, "call", death.meet(Calls.call))
        reply = world.ask("@dokocos wrong", label=None, in_reply_to=answer)
        until(lambda: death.has_come or bot.store.inbox.counts().get("answered") == 2)
    with world.bot() as bot:
        until(lambda: bot.store.inbox.counts().get("answered") == 2)
        settle(bot)
        assert [(each.n, each.n_right) for each in bot.store.opinions.tally()] == [(1, 0)]
    assert len(world.answers(reply)) == 1
