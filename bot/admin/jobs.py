"""What the bot does by itself: gathers photos, trains, reports, forgets, and watches what needs a person."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from bot.admin.messages import Message, announcement, figures, scrape_message, training_message, week_message
from bot.admin.outbox import Outbox
from bot.admin.subprocesses import Ended, Subprocesses
from bot.config import Settings
from bot.storage.records import DAY_S, Records
from bot.storage.store import Store
from trainer.errors import ModelError, ProjectError

if TYPE_CHECKING:
    from trainer.registry.serving import Version

logger = logging.getLogger(__name__)

WEEK_S = 7 * DAY_S
CRASHES_TO_TELL = 3
UNTIL_MENDED = float("inf")


@dataclass(eq=False)
class Jobs:
    """The jobs' actions; each takes whether somebody asked for it, and returns its outcome in a few words.

    Raises (all actions):
        ProjectError: it came to nothing; the admins have been told where they need to know.
    """

    settings: Settings
    store: Store
    records: Records
    subprocesses: Subprocesses
    outbox: Outbox
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def scrape(self, asked: bool) -> str:
        """Gather new photos; a source that fails is told of once, until it works again."""
        from trainer.registry import serving

        before = serving.holdings(self.settings).n_by_label
        ended = self.subprocesses.run("scrape")
        outcome = scrape_message(before, serving.holdings(self.settings).n_by_label)
        if ended.status != 0:
            text = f"The scrape failed: {ended.why}. Data and champion stay as they are ({outcome})."
            self._complain("scrape", text, asked=asked, again_after_s=UNTIL_MENDED)
        self.outbox.mended("scrape", f"The source can be read again: {outcome}.")
        if asked:
            self.outbox.tell_admins(Message(f"Scrape done: {outcome}."))
        return outcome

    def train(self, asked: bool) -> str:
        """Train a challenger if enough photos are new, or if asked to; tell the admins what came of it."""
        from trainer.registry import serving

        n_new, n_needed = serving.holdings(self.settings).n_new, self.settings.schedule.min_new_photos
        if n_new < n_needed and not asked:
            return f"not needed: {n_new:,} photos are new, {n_needed:,} would be enough"
        known = {version.name for version in serving.versions(self.settings)}
        ended = self.subprocesses.run("train")
        made = [version for version in serving.versions(self.settings) if version.name not in known]
        if ended.status != 0 or not made:
            self._training_failed(ended, asked=asked)
        self.outbox.mended("train", "Training works again.")
        return self._tell_of(made[-1])

    def report(self, _asked: bool) -> str:
        """Tell the admins how the week was."""
        self.outbox.tell_admins(Message(self.week()))
        return "told"

    def week(self) -> str:
        """The last seven days in words."""
        from trainer.registry import serving

        counts: Counter[str] = Counter()
        for tally in self.store.inbox.ended_since(self.now() - WEEK_S):
            counts[tally.state] += tally.n
        try:
            version = serving.champion(self.settings)
        except ModelError as error:
            return week_message(sorted(counts.items()), champion=str(error), figures=[], jobs=[])
        lines = [] if version is None else figures(version.metrics["report"])
        jobs = []
        for name in ("scrape", "train"):
            jobs += [f"Last {name}: {run.summary}." for run in self.records.runs(limit=1, job=name)]
        champion = "none yet" if version is None else version.name
        return week_message(sorted(counts.items()), champion=champion, figures=lines, jobs=jobs)

    def prune(self, _asked: bool) -> str:
        """Forget mentions and runs that ended long ago."""
        before = self.now() - self.settings.bot.keep_days * DAY_S
        return f"{self.store.inbox.prune(before=before)} mentions, {self.records.prune(before=before)} runs forgotten"

    def watch(self, _asked: bool) -> str:
        """Look for what needs a person: a full disk, a champion that is damaged."""
        from trainer.registry import serving

        free = shutil.disk_usage(self.settings.data_dir).free
        self._judge(
            "disk", free < self.settings.bot.min_free_bytes, f"The disk is nearly full: {free / 1e6:,.0f} MB left."
        )
        try:
            wanted, whole = serving.champion_name(self.settings), serving.champion(self.settings)
            fault = "" if wanted is None or (whole and whole.name == wanted) else (
                f"Champion {wanted} is damaged or gone; {whole.name if whole else 'none'} takes its place."
            )  # fmt: skip
        except ModelError as error:
            fault = str(error)
        self._judge("champion", bool(fault), fault)
        return f"{free / 1e9:,.1f} GB free; champion {'damaged' if fault else 'whole'}"

    def _judge(self, kind: str, is_fault: bool, text: str) -> None:
        if is_fault:
            self.outbox.warn(kind, text, again_after_s=DAY_S)
        else:
            self.outbox.mended(kind, f"Mended: {kind}.")

    def _training_failed(self, ended: Ended, *, asked: bool) -> None:
        n_crashes = self.records.n_failures("train") + 1
        text = f"The training failed, {n_crashes} in a row: {ended.why}. The champion serves on."
        if asked or n_crashes >= CRASHES_TO_TELL:
            self._complain("train", text, asked=asked, again_after_s=DAY_S)
        raise ProjectError(text)

    def _complain(self, kind: str, text: str, *, asked: bool, again_after_s: float) -> None:
        """Tell the admins: who asked hears of it in any case, else they are told now and then. Raises ProjectError."""
        if asked:
            self.records.may_tell(kind, again_after_s=again_after_s)  # counts as told
            self.outbox.tell_admins(Message(text))
        else:
            self.outbox.warn(kind, text, again_after_s=again_after_s)
        raise ProjectError(text)

    def _tell_of(self, made: Version) -> str:
        from trainer.registry import serving

        earlier = {version.name: version.metrics for version in serving.versions(self.settings)}
        compared_with = made.metrics.get("compared_with")
        before = (compared_with, earlier[compared_with]) if compared_with in earlier else None
        self.outbox.tell_admins(training_message(made.name, made.facts.n_photos, made.metrics, before))
        if not made.metrics["verdict"]["promoted"]:
            return f"{made.name} is kept, but does not serve"
        self.outbox.announce(announcement(made.name, made.facts.n_photos, made.metrics["report"]))
        return f"{made.name} is the champion now"
