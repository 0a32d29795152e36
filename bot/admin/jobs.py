"""The actions of the recurring jobs: scrape, train, review, report, prune, and watch for faults that need a person."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from bot.admin import second_look
from bot.admin.agreement import Opinions, is_worse, worse_message
from bot.admin.messages import Message, announcement, figures, scrape_message, training_message, week_message
from bot.admin.outbox import Outbox
from bot.admin.subprocesses import Ended, Subprocesses
from bot.config import Settings
from bot.storage.records import DAY_S, Records
from bot.storage.store import Store
from trainer import review_state
from trainer.errors import ModelError, ProjectError
from trainer.photos.contributions import Contributions
from trainer.registry import serving

logger = logging.getLogger(__name__)

WEEK_S = 7 * DAY_S
FAILURES_TO_REPORT = 3
UNTIL_FIXED = float("inf")


@dataclass(eq=False)
class Jobs:
    """The jobs' actions; each takes whether an admin asked for it, and returns its outcome in a few words.

    Raises (all actions):
        ProjectError: it failed; the admins have been told if they need to know.
    """

    settings: Settings
    store: Store
    records: Records
    subprocesses: Subprocesses
    outbox: Outbox
    _: KW_ONLY
    now: Callable[[], float] = time.time

    def scrape(self, asked: bool) -> str:
        """Scrapes new photos; the admins are told once about a failing source, until it works again."""
        before = serving.holdings(self.settings).n_by_label
        ended = self.subprocesses.run("scrape")
        outcome = scrape_message(before, serving.holdings(self.settings).n_by_label)
        if ended.status != 0:
            text = f"The scrape failed: {ended.why}. Photos and champion are unchanged ({outcome})."
            self._fail("scrape", text, asked=asked, again_after_s=UNTIL_FIXED)
        self.outbox.resolved("scrape", f"The source can be read again: {outcome}.")
        if asked:
            self.outbox.tell_admins(Message(f"Scrape done: {outcome}."))
        return outcome

    def train(self, asked: bool) -> str:
        """Trains a challenger if there are enough new photos, or if asked to; tells the admins the result."""
        n_new, n_needed = serving.holdings(self.settings).n_new, self.settings.schedule.min_new_photos
        if n_new < n_needed and not asked:
            return f"not needed: {n_new:,} new photos, {n_needed:,} are required"
        known = {version.name for version in serving.versions(self.settings)}
        ended = self.subprocesses.run("train")
        made = [version for version in serving.versions(self.settings) if version.name not in known]
        if ended.status != 0 or not made:
            self._training_failed(ended, asked=asked)
        self.outbox.resolved("train", "Training works again.")
        return self._report_version(made[-1])

    def review(self, asked: bool) -> str:
        """Counts the photos worth a second look; tells the admins if asked to."""
        ended = self.subprocesses.run("review", "--count")
        last = review_state.last_review(self.settings.data_dir)
        if ended.status != 0 or last is None:
            self._fail("review", f"The review failed: {ended.why}.", asked=asked, again_after_s=WEEK_S)
        self.outbox.resolved("review", "A review works again.")
        if asked:
            lines = second_look.describe(self.settings, last, now=self.now())
            self.outbox.tell_admins(Message("\n".join(["Review done.", *lines])))
        return ended.last_line

    def report(self, _asked: bool) -> str:
        """Sends the admins the weekly report."""
        self.outbox.tell_admins(Message(self.week()))
        return "sent"

    def week(self) -> str:
        """The weekly report: the last seven days in words."""
        counts: Counter[str] = Counter()
        since = self.now() - WEEK_S
        for tally in self.store.inbox.ended_since(since):
            counts[tally.state] += tally.n
        opinions = Opinions(
            self.store.opinions.tally(since=since), self.store.opinions.tally_samples(since=since)
        ).lines()
        try:
            version = serving.champion(self.settings)
        except ModelError as error:
            return week_message(sorted(counts.items()), champion=str(error), figures=[], opinions=opinions, jobs=[])
        lines = [] if version is None else figures(version.metrics["report"])
        jobs = []
        for name in ("scrape", "train"):
            jobs += [f"Last {name}: {run.summary}." for run in self.records.runs(limit=1, job=name)]
        champion = "none yet" if version is None else version.name
        return week_message(sorted(counts.items()), champion=champion, figures=lines, opinions=opinions, jobs=jobs)

    def prune(self, _asked: bool) -> str:
        """Deletes records of mentions and runs that ended long ago."""
        before = self.now() - self.settings.bot.keep_days * DAY_S
        self.store.consents.prune(before=before)  # first, as `inbox.prune` clears what was deleted out of the file
        return f"{self.store.inbox.prune(before=before)} mentions, {self.records.prune(before=before)} runs deleted"

    def tidy(self, _asked: bool) -> str:
        """Has contributed photos deleted that were taken back, dropped, or not settled in time."""
        if Contributions(self.settings.data_dir).is_empty():
            return "nothing is contributed"
        ended = self.subprocesses.run("contributions")
        if ended.status != 0:
            raise ProjectError(f"contributed photos are not all deleted: {ended.why}")
        return ended.last_line

    def watch(self, _asked: bool) -> str:
        """Checks for what needs a person: a full disk, a damaged champion, one that people disagree with."""
        free = shutil.disk_usage(self.settings.data_dir).free
        self._update_fault(
            "disk", free < self.settings.bot.min_free_bytes, f"The disk is nearly full: {free / 1e6:,.0f} MB left."
        )
        wanted = None
        try:
            wanted, whole = serving.champion_name(self.settings), serving.champion(self.settings)
            fault = "" if wanted is None or (whole and whole.name == wanted) else (
                f"Champion {wanted} is damaged or missing; {whole.name if whole else 'no version'} serves instead."
            )  # fmt: skip
        except ModelError as error:
            fault = str(error)
        self._update_fault("champion", bool(fault), fault)
        if wanted is not None:
            self._compare_opinions(wanted)
        return f"{free / 1e9:,.1f} GB free; champion {'damaged' if fault else 'whole'}"

    def _compare_opinions(self, champion: str) -> None:
        """Tells the admins once about a champion that people disagree with more than with the version before it."""
        before = self.store.opinions.version_before(champion)
        if before is None:
            return
        new, old = self.store.opinions.by_account(champion), self.store.opinions.by_account(before)
        if is_worse(new, old):
            text = worse_message(champion, new, before, old)
            self.outbox.warn(f"disagreement with {champion}", text, again_after_s=UNTIL_FIXED)

    def _update_fault(self, kind: str, is_fault: bool, text: str) -> None:
        if is_fault:
            self.outbox.warn(kind, text, again_after_s=DAY_S)
        else:
            self.outbox.resolved(kind, f"Resolved: {kind}.")

    def _training_failed(self, ended: Ended, *, asked: bool) -> None:
        n_failures = self.records.n_failures("train") + 1
        text = f"The training failed, {n_failures} in a row: {ended.why}. The champion still serves."
        if asked or n_failures >= FAILURES_TO_REPORT:
            self._fail("train", text, asked=asked, again_after_s=DAY_S)
        raise ProjectError(text)

    def _fail(self, kind: str, text: str, *, asked: bool, again_after_s: float) -> None:
        """Tells the admins, if nobody asked at most once in `again_after_s`. Always raises ProjectError."""
        if asked:
            self.records.should_report(kind, again_after_s=again_after_s)  # counts as reported
            self.outbox.tell_admins(Message(text))
        else:
            self.outbox.warn(kind, text, again_after_s=again_after_s)
        raise ProjectError(text)

    def _report_version(self, made: serving.Version) -> str:
        earlier = {version.name: version.metrics for version in serving.versions(self.settings)}
        compared_with = made.metrics.get("compared_with")
        before = (compared_with, earlier[compared_with]) if compared_with in earlier else None
        message = training_message(
            made.name, made.facts.n_photos, made.metrics, before, more=second_look.in_short(self.settings)
        )
        self.outbox.tell_admins(message)
        if not made.metrics["verdict"]["promoted"]:
            return f"{made.name} is kept, but does not serve"
        self.outbox.announce(announcement(made.name, made.facts.n_photos, made.metrics["report"]))
        return f"{made.name} is the champion now"
