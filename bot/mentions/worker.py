"""Takes mentions from the inbox, several at a time, and decides how to retry those that cannot be answered.

Every error stops here. A rate limit or an outage of the instance delays all mentions and counts against none. Any other
error counts as an attempt; a mention that used up its attempts has failed, with the reason recorded. An attempt is
counted when a mention is taken, so a mention that kills the process fails in the end too.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Container
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from cachetools import FIFOCache

from bot.config import BotSettings
from bot.ending import Ending
from bot.entities import Mention
from bot.errors import NotFound, RateLimited, Refused, Transient, Unauthorized
from bot.mentions.hands import CROWD, SLOW_AFTER_S, Hands
from bot.shares import Asker, asking
from bot.storage.inbox import MAX_WAIT_S, Entry, Inbox, Outcome
from bot.storage.schema import DamagedError
from trainer.errors import ModelError, ProjectError, StorageError

logger = logging.getLogger(__name__)

# Another process may change rows (`python -m bot inbox --retry`), so the inbox is read at least this often.
CHECK_EVERY_S = 15.0
MAX_DOUBLINGS = 16
MAX_KNOWN = 1000  # mentions whose content is cached, the newest
# After this many calls in a row without an answer the server counts as down.
OUTAGES_TO_BLOCK = 3
# While the server is down, one mention is tried at least this often.
MAX_OUTAGE_PAUSE_S = 60.0
NEEDED_BY_ALL = ("call", "post")  # families of calls that every answer needs


class Answerer(Protocol):
    """Answers one mention: `bot.mentions.answer.Answerer`."""

    def answer(self, entry: Entry, mention: Mention | None) -> Outcome:
        """Answers a mention; raises if it cannot."""


class Gate(Protocol):
    """Says whose mentions are answered: `bot.admin.handlers.CommandHandlers`."""

    @property
    def admins(self) -> Container[str]:
        """Ids of the accounts that may give orders."""

    def serves_only(self) -> Collection[str] | None:
        """Ids of the accounts that are answered now, while the others wait; None: everybody."""


class OutcomeCounter(Protocol):
    """Counts how mentions ended: `bot.monitor.metrics.Metrics`."""

    def finished(self, entry: Entry, outcome: Outcome) -> None:
        """Counts a mention that was answered, refused or has failed."""


class Worker:
    """Processes the inbox on its own threads.

    Args:
        patience_s: how long the server may take for a call; a call without an answer is not repeated earlier, as the
            post could arrive twice.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        inbox: Inbox,
        answerer: Answerer,
        settings: BotSettings,
        gate: Gate,
        counter: OutcomeCounter,
        ending: Ending,
        *,
        patience_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._inbox = inbox
        self._answerer = answerer
        self._settings = settings
        self._gate = gate
        self._counter = counter
        self._ending = ending
        self._patience_s = patience_s
        self._now = now
        self._known: FIFOCache[str, Mention] = FIFOCache(MAX_KNOWN)
        self._hands = Hands(settings.concurrent_mentions)
        self._blocked_until = 0.0
        self._n_outages = 0
        self._stopping = False
        self._guard = threading.Condition()  # of what is in progress, and of outages
        self._receiving = threading.Lock()  # a mention is put into the inbox and cached in one step
        self._asked = threading.Event()  # to read the inbox
        self._pool = ThreadPoolExecutor(settings.concurrent_mentions * CROWD, thread_name_prefix="mention")
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        inbox.changed = self.wake

    def start(self) -> None:
        """Requeues what an earlier run left unfinished, then starts."""
        n_left = self._inbox.requeue([], look_first=True, under_way_s=self._patience_s)
        if n_left:
            logger.info("requeued after restart n=%d", n_left)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Takes no more mentions and waits for those in progress; True if all ended in time."""
        deadline = time.monotonic() + timeout_s
        with self._guard:
            self._stopping = True
            self._asked.set()
            done = self._guard.wait_for(lambda: not self._hands.in_progress, timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return done

    def receive(self, mention: Mention, *, look_first: bool) -> bool:
        """Puts a mention into the inbox, and caches its content; returns False if it is there already.

        Args:
            look_first: an earlier run may have answered it.
        """
        with self._receiving:
            is_new = self._inbox.put(mention, look_first=look_first)
            if is_new:
                self._known[mention.notification_id] = mention
        if is_new:
            self.wake()
        return is_new

    def forget(self, notification_id: str) -> None:
        """Drops a mention from the cache, as it has changed; it is fetched again when needed."""
        with self._receiving:
            self._known.pop(notification_id, None)

    def wake(self) -> None:
        """Makes the worker read the inbox now."""
        self._asked.set()

    def is_idle(self) -> bool:
        """Whether no mention is in progress or due."""
        with self._guard:
            due = self._inbox.next_due(only=self._gate.serves_only())
            return not self._hands.in_progress and (due is None or due > self._now())

    def blocked_hosts(self) -> set[str]:
        """The hosts that used up their share of the server's limits."""
        with self._guard:
            return self._hands.blocked(self._now())

    @property
    def is_alive(self) -> bool:
        """Whether its thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._asked.clear()
            with self._guard:
                if self._stopping:
                    return
                try:
                    pause = self._start_due()
                except DamagedError as error:
                    self._ending.fatal(error)
                    return
                except StorageError as error:
                    logger.error("the inbox cannot be read: %s", error)
                    pause = CHECK_EVERY_S
                except Exception:
                    logger.exception("the inbox cannot be read")
                    pause = CHECK_EVERY_S
            self._asked.wait(min(pause, CHECK_EVERY_S))

    def _start_due(self) -> float:
        """Starts due mentions up to the concurrency limit; returns the seconds until there may be more to do."""
        now, only = self._now(), self._gate.serves_only()
        if self._blocked_until > now + MAX_WAIT_S:
            self._blocked_until = now  # the clock was set back
        self._hands.admins = self._gate.admins
        self._inbox.requeue(self._hands.in_progress)
        if now < self._blocked_until:
            return self._blocked_until - now
        # In an outage only one is tried, to see whether the server is back.
        n_hands = 1 if self._n_outages >= OUTAGES_TO_BLOCK else self._settings.concurrent_mentions
        while self._hands.is_free(n_hands):
            taken = self._inbox.take(1, only=only, rank=self._hands.ranking(now))
            if not taken:
                break
            for entry in taken:
                self._pool.submit(self._process, entry, self._hands.begin(entry))
        # What is due and was not taken waits for others: one that ends wakes this thread, one that is slow does not.
        pause = SLOW_AFTER_S if self._hands.in_progress else CHECK_EVERY_S
        due = self._inbox.next_due(only=only, after=now)
        return pause if due is None else min(pause, due - now)

    def _process(self, entry: Entry, asker: Asker) -> None:
        """Answers one mention on one thread; raises nothing."""
        started = time.monotonic()
        try:
            with asking(asker):
                self._attempt(entry, started)
        except Exception:
            # The row keeps its state; `requeue` puts it back once no thread works on it.
            logger.exception("outcome not recorded notification=%s", entry.notification_id)
        finally:
            with self._guard:
                del self._hands.in_progress[entry.notification_id]
                self._guard.notify_all()
            self.wake()

    def _attempt(self, entry: Entry, started: float) -> None:
        with self._receiving:
            known = self._known.get(entry.notification_id)
        if entry.attempts > self._settings.max_attempts:  # the last attempts never returned: the process died
            reason = f"the bot died while answering, in try {entry.attempts - 1} and before"
            self._finish(entry, Outcome("failed", reason=reason), started)
            return
        try:
            outcome = self._answerer.answer(entry, known)
        except RateLimited as error:
            if error.family in NEEDED_BY_ALL:
                self._block(error.until, host=error.host)
            self._defer(entry, error, until=error.until, charged=False)
        except Unauthorized as error:
            self._defer(entry, error, until=self._now(), charged=False)
            self._ending.fatal(error)
        except (NotFound, Refused) as error:
            self._n_outages = 0
            self._finish(entry, Outcome("failed", reason=str(error)), started)
        except Transient as error:
            pause = self._pause(entry.tries)
            if error.outage:
                self._note_outage()
                pause = min(pause, MAX_OUTAGE_PAUSE_S)
            else:
                self._n_outages = 0
            pause = max(pause, self._patience_s if error.under_way else 0.0)
            self._defer(entry, error, until=self._now() + pause, charged=not error.outage)
        except ModelError as error:  # not the mention's fault: no version can serve
            until = self._now() + self._settings.max_retry_pause_s
            self._block(until)
            self._defer(entry, error, until=until, charged=False)
        except StorageError:
            raise
        except Exception as error:
            if not isinstance(error, ProjectError):
                logger.exception("unexpected error notification=%s", entry.notification_id)
            self._defer(entry, error, until=self._now() + self._pause(entry.tries), charged=True)
        else:
            self._n_outages = 0
            self._finish(entry, outcome, started)

    def _finish(self, entry: Entry, outcome: Outcome, started: float) -> None:
        self._inbox.finish(entry.notification_id, outcome)
        self.forget(entry.notification_id)
        self._counter.finished(entry, outcome)
        took_ms = (time.monotonic() - started) * 1000
        if outcome.state == "answered":
            logger.info(
                "replied notification=%s reply=%s kind=%s label=%s score=%s version=%s took_ms=%d",
                entry.notification_id,
                outcome.reply_id,
                outcome.kind,
                outcome.label,
                None if outcome.score is None else f"{outcome.score:.2f}",
                outcome.version,
                took_ms,
            )
        else:
            level = logging.INFO if outcome.state == "refused" else logging.ERROR
            logger.log(level, "%s notification=%s reason=%s", outcome.state, entry.notification_id, outcome.reason)

    def _defer(self, entry: Entry, error: Exception, *, until: float, charged: bool) -> None:
        reason = f"{type(error).__name__}: {error}"[:300]
        if charged and entry.attempts >= self._settings.max_attempts:
            self._finish(entry, Outcome("failed", reason=reason), time.monotonic())
            return
        self._inbox.defer(entry.notification_id, until=until, reason=reason, charged=charged)
        logger.warning(
            "deferred notification=%s attempt=%d again_in_s=%.1f reason=%s",
            entry.notification_id,
            entry.attempts,
            max(0.0, until - self._now()),
            reason,
        )

    def _block(self, until: float, *, host: str | None = None) -> None:
        """Takes no mentions until then; with `host`, none of its accounts."""
        with self._guard:
            if host is None:
                self._blocked_until = max(self._blocked_until, until)
            else:
                self._hands.blocked_until[host] = until

    def _note_outage(self) -> None:
        """Blocks all mentions after some failures in a row, longer each time that the next single try fails too.

        Failures while blocked do not count: those mentions were in progress when the server went down.
        """
        with self._guard:
            now = self._now()
            if now < self._blocked_until:
                return
            self._n_outages += 1
            if self._n_outages >= OUTAGES_TO_BLOCK:
                pause = self._pause(self._n_outages - OUTAGES_TO_BLOCK + 1)
                self._blocked_until = now + min(pause, MAX_OUTAGE_PAUSE_S)

    def _pause(self, n_failures: int) -> float:
        """Seconds before the next try; doubles with each failure."""
        pause = self._settings.retry_pause_s * 2.0 ** min(n_failures - 1, MAX_DOUBLINGS)
        return min(pause, self._settings.max_retry_pause_s) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
