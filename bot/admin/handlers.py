"""Executes admins' orders and returns the answers; `bot.admin.commands` defines the orders.

Long jobs are only started here; they report when they end. Orders that are hard to undo need a "yes".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

from cachetools import TTLCache

from bot.admin import commands, second_look
from bot.admin.commands import Command
from bot.admin.jobs import Jobs
from bot.admin.outbox import ANNOUNCE, QUIET_UNTIL
from bot.admin.schedule import Schedule
from bot.admin.status import PAUSED, StatusReader, span
from bot.admin.subprocesses import Subprocesses
from bot.storage.records import Records
from bot.storage.store import Store
from trainer import review_state
from trainer.errors import ProjectError
from trainer.registry import serving

logger = logging.getLogger(__name__)

HOUR_S = 3600.0
CONFIRM_WITHIN_S = 600.0
MAX_ANSWERS = 1000  # cached, the newest
N_SHOWN = 8  # rows of the inbox, lines of the log, versions


@dataclass(frozen=True, slots=True)
class _Pending:
    """An order that waits for a "yes" of the admin who gave it."""

    account_id: str
    command: Command
    until: float


@dataclass(eq=False)
class CommandHandlers:
    """Executes commands.

    Args:
        admins: account id -> acct of those who may give orders.
        log_lines: returns the last warnings and errors.
        now: seconds since the epoch.
    """

    admins: Mapping[str, str]
    store: Store
    records: Records
    schedule: Schedule
    subprocesses: Subprocesses
    jobs: Jobs
    status_reader: StatusReader
    _: KW_ONLY
    log_lines: Callable[[], list[str]]
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.admins = dict(self.admins)
        self._paused = self.records.switch(PAUSED) is not None
        self._pending: TTLCache[str, _Pending] = TTLCache(maxsize=MAX_ANSWERS, ttl=HOUR_S, timer=self.now)  # by order
        self._answers: TTLCache[str, str] = TTLCache(maxsize=MAX_ANSWERS, ttl=HOUR_S, timer=self.now)
        self._lock = threading.Lock()

    def serves_only(self) -> list[str] | None:
        """Ids of the accounts that are answered now; None: everybody."""
        return list(self.admins) if self._paused else None

    def execute(
        self, order_id: str, account_id: str, text: str, *, language: str, below: str | None = None
    ) -> str | None:
        """Executes a direct mention's order and returns the answer; None if it is not an order.

        Args:
            order_id: the mention's id; the same one is executed once, and gets the same answer when repeated.
            account_id: the sender.
            below: the id of the order whose answer this mention replies to; a "yes" or "no" concerns that order alone.
        """
        with self._lock:
            known = self._answers.get(order_id)
        if known is not None:
            return known
        command = commands.parse(text)
        if account_id not in self.admins or command is None:
            return None
        if command.name in ("yes", "no"):
            answer = self._confirm(account_id, command, below)
        else:
            answer = self._execute_new(order_id, account_id, command, language)
        if answer is None:
            return None  # a "yes" to something else
        with self._lock:
            self._answers[order_id] = answer
        logger.info(
            "order by=%s command=%s argument=%s outcome=%s",
            self.admins[account_id],
            command.name,
            command.argument,
            answer.splitlines()[0],
        )
        return answer

    def unknown(self, text: str) -> str:
        """The answer to a text that is no executable order."""
        command = commands.parse(text)
        if command is not None:
            return "Nothing waits for a yes or no; if I was restarted meanwhile, send the order again."
        near = commands.nearest(text)
        return f"Unknown command{f'; did you mean “{near}”?' if near else '.'} “help” lists all commands."

    def _execute_new(self, order_id: str, account_id: str, command: Command, language: str) -> str:
        """Executes a new order, or asks for confirmation."""
        if command.name == "help":
            return commands.help_text(language, command.argument)
        if not commands.needs_confirmation(command):
            return self._run(command)
        problem = self._refusal(command)
        if problem:
            return problem
        with self._lock:
            self._pending[order_id] = _Pending(account_id, command, self.now() + CONFIRM_WITHIN_S)
        what = f"{command.name} {command.argument or ''}".strip()
        return f"Do you really want “{what}”? Answer “yes” to this within {CONFIRM_WITHIN_S / 60:.0f} minutes, or “no”."

    def _confirm(self, account_id: str, command: Command, below: str | None) -> str | None:
        """The answer to a "yes" or "no"; None if no order of this admin waits for one."""
        with self._lock:
            waiting = [order_id for order_id, order in self._pending.items() if order.account_id == account_id]
            pending = self._pending.pop(below) if below in waiting else None
        if pending is None:
            hint = f"Answer “{command.name}” to the question itself; nothing was done."
            return hint if waiting else None
        if command.name == "no":
            return f"“{pending.command.name}” is cancelled."
        if self.now() > pending.until:
            return f"Too late for “{pending.command.name}”; nothing was done. Send the order again if needed."
        return self._run(pending.command)

    def _run(self, command: Command) -> str:
        actions: dict[str, Callable[[str | None], str]] = {
            "status": self._status,
            "scrape": lambda _: self._start_job("scrape"),
            "train": lambda _: self._start_job("train"),
            "models": self._models,
            "promote": lambda name: self._change_champion("promote", name),
            "rollback": lambda _: self._change_champion("rollback"),
            "pause": self._pause,
            "resume": self._resume,
            "review": self._review,
            "report": lambda _: self.jobs.week(),
            "jobs": lambda _: "\n".join(self.status_reader.job_lines(self.schedule.jobs())),
            "inbox": self._inbox,
            "retry": self._retry,
            "log": lambda _: "\n".join(self.log_lines()[-N_SHOWN:]) or "No warnings and no errors since the start.",
            "quiet": self._quiet,
            "announce": self._announce,
        }
        try:
            return actions[command.name](command.argument)
        except ProjectError as error:
            return f"“{command.name}” failed: {error}"

    def _refusal(self, command: Command) -> str | None:
        """Why an order is refused at once; None if it is not."""
        if command.name != "promote":
            return None
        known = [version.name for version in serving.versions(self.status_reader.settings)]
        if command.argument in known:
            return None
        return f"There is no version {command.argument}. There are: {', '.join(known[-N_SHOWN:]) or 'none'}."

    def _status(self, _argument: str | None) -> str:
        view = self.status_reader.read()
        lines = [f"Up for {span(view.uptime_s)}{', paused' if view.paused else ''}."]
        counts = ", ".join(f"{n:,} {state}" for state, n in sorted(view.counts.items())) or "empty"
        lines.append(f"Inbox: {counts}.")
        lines += [f"Champion {view.champion}.", *view.figures]
        planned = [job for job in self.schedule.jobs() if job.name in ("scrape", "train", "report")]
        lines += self.status_reader.job_lines(planned)
        lines.append(f"Disk: {view.free_bytes / 1e9:,.1f} GB free.")
        if view.quiet_until:
            lines.append(f"Quiet until {self.status_reader.clock(view.quiet_until)}.")
        errors = self.log_lines()[-2:]
        return "\n".join([*lines, *(f"Log: {line}" for line in errors)])

    def _start_job(self, job: str) -> str:
        started = self.schedule.ask(job)
        if started:
            return f"{job.capitalize()} starts now; I will tell you when it is done."
        return f"{job.capitalize()} is already running or queued; I will tell you when it is done."

    def _review(self, _argument: str | None) -> str:
        settings, now = self.status_reader.settings, self.now()
        last = review_state.last_review(settings.data_dir)
        lines = second_look.describe(settings, last, now=now)
        if second_look.needs_look(settings, last, now=now):
            self.schedule.ask("review")
            lines.append("I have the photos looked through again, and tell you when that is done.")
        return "\n".join(lines)

    def _models(self, _argument: str | None) -> str:
        settings = self.status_reader.settings
        champion = serving.champion(settings)
        lines = []
        for version in serving.versions(settings)[-N_SHOWN:]:
            share = version.metrics["report"]["balanced_accuracy"]["value"]
            mark = " (champion)" if champion and champion.name == version.name else ""
            lines.append(f"{version.name}{mark}: balanced accuracy {share or 0:.2f}, {version.facts.n_photos:,} photos")
        return "\n".join(lines) or "There are no versions yet; “train” makes one."

    def _change_champion(self, *arguments: str | None) -> str:
        ended = self.subprocesses.run(*(each for each in arguments if each))
        return ended.last_line or ended.how if ended.status == 0 else f"“{arguments[0]}” failed: {ended.why}."

    def _pause(self, _argument: str | None) -> str:
        self.records.set_switch(PAUSED, "yes")
        self._paused = True
        return "Paused: I answer only admins; other mentions wait in the inbox until “resume”."

    def _resume(self, _argument: str | None) -> str:
        self.records.set_switch(PAUSED, None)
        was_paused, self._paused = self._paused, False
        self.store.inbox.changed()
        n_waiting = self.status_reader.read().n_waiting
        return f"{'Resumed' if was_paused else 'I was not paused'}; {n_waiting:,} mentions wait or are in progress."

    def _inbox(self, _argument: str | None) -> str:
        counts = ", ".join(f"{n:,} {state}" for state, n in sorted(self.store.inbox.counts().items())) or "empty"
        rows = [
            f"{entry.notification_id} {entry.state}, {entry.tries} tries {entry.reason[:80]}".strip()
            for entry in self.store.inbox.entries(open_only=True, limit=N_SHOWN)
        ]
        return "\n".join([f"Inbox: {counts}.", *rows])

    def _retry(self, notification_id: str | None) -> str:
        n_again = self.store.inbox.retry(notification_id)
        return f"{n_again:,} will be tried again." if n_again else "Nothing to try again: no such failed mention."

    def _quiet(self, hours: str | None) -> str:
        until = self.now() + int(hours or 0) * HOUR_S
        self.records.set_switch(QUIET_UNTIL, str(until))
        self.schedule.wake()
        if until <= self.now():
            return "No longer quiet; waiting messages are sent now."
        end = self.status_reader.clock(until)
        return f"Quiet until {end}; reports and warnings wait until then. I still answer orders."

    def _announce(self, value: str | None) -> str:
        self.records.set_switch(ANNOUNCE, value)
        return f"Public posts about new champions are {value}."
