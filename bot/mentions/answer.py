"""Answers one mention, from checking who asked to posting the reply; the worker decides what to do about errors.

The order matters. Before a post, `Inbox.mark_posting` records that a reply may exist; before a second post, the thread
is searched for that reply.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta

from cachetools import TTLCache, cachedmethod

from bot.admin.handlers import CommandHandlers
from bot.admin.outbox import parts
from bot.config import BotSettings
from bot.entities import Account, Finding, Mention, Prediction, Reply, Status, Thread
from bot.errors import InstanceError, NoSuchPage, NotFound, OutOfScope, Refused, Transient
from bot.instance.client import Client
from bot.mentions import etiquette
from bot.mentions.answered import find_answered
from bot.mentions.consent import ConsentKeeper
from bot.mentions.contributions import AGAIN, ContributionKeeper
from bot.mentions.etiquette import Subject
from bot.mentions.feedback import Feedback
from bot.mentions.forms import deliver
from bot.mentions.hosts import Hosts
from bot.mentions.withdrawal import Withdrawal
from bot.photos.photos import PhotoReader
from bot.reply.card import illustrate
from bot.reply.writer import Writer
from bot.storage.inbox import Entry, Outcome
from bot.storage.store import Store

logger = logging.getLogger(__name__)

NO_THREAD = Thread((), ())
RELATIONS_KEPT_S = 3600.0
MAX_RELATIONS = 1000  # cached
PHOTO_TRIES = 7  # then a photo that cannot be fetched counts as gone: ten minutes with the default pauses
# An account may still delete its answers when it has used up its limit of them.
DELETES_PER_ANSWER = 2
UPLOAD_TIMEOUT_S = 10.0  # an answer without a picture is better than a late one


@dataclass(eq=False)
class Answerer:
    """Answers mentions; each calling thread answers one at a time.

    Args:
        now: seconds since the epoch.
    """

    client: Client
    store: Store
    photo_reader: PhotoReader
    writer: Writer
    settings: BotSettings
    _: KW_ONLY
    handlers: CommandHandlers
    hosts: Hosts
    withdrawal: Withdrawal
    feedback: Feedback
    contributions: ContributionKeeper
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.consent = ConsentKeeper(self.client, self.store, self.writer.texts)
        self._consent_lock = threading.Lock()
        self._blocked_or_muted: TTLCache[str, bool] = TTLCache(
            maxsize=MAX_RELATIONS, ttl=RELATIONS_KEPT_S, timer=self.now
        )
        self._relations_lock = threading.Lock()

    def answer(self, entry: Entry, mention: Mention | None) -> Outcome:
        """Answers one mention.

        Args:
            entry: its row, in the state "working".
            mention: its content if cached; with None the status is fetched again.

        Raises:
            InstanceError, ProjectError: it could not be answered this time.
        """
        try:
            status = mention.status if mention else self.client.reader.status(entry.status_id)
            return self._answer(entry, status)
        except (NotFound, NoSuchPage) as error:
            if isinstance(error, NoSuchPage) and not self._is_gone(entry, error):
                raise
            logger.info("gone notification=%s detail=%s", entry.notification_id, error)
            self.store.opinions.forget(entry.status_id)
            if entry.look_first:
                self._delete_lost_answer(entry)
            return _refused("the question is gone")

    def _is_gone(self, entry: Entry, page: NoSuchPage) -> bool:
        """Whether to believe a 404 that did not come from the API: only at the last try and if the server is up."""
        return page.status in (404, 410) and not page.outage and entry.attempts >= self.settings.max_attempts

    def _delete_lost_answer(self, entry: Entry) -> None:
        """Deletes an answer that was posted without confirmation before its question was deleted."""
        for reply_id in self.client.reader.orphaned_replies(entry.account_id, since=entry.status_id):
            self.client.poster.delete(reply_id)
            logger.info("answer deleted with its question notification=%s reply=%s", entry.notification_id, reply_id)

    def _answer(self, entry: Entry, status: Status) -> Outcome:
        me = self.client.home.me()
        thread = self.client.reader.thread(status.id) if entry.look_first else None
        earlier = None if thread is None else etiquette.own_answer(status, thread, me=me)
        if earlier is not None:
            logger.info("already answered notification=%s reply=%s", entry.notification_id, earlier.id)
            return Outcome("answered", reason="found in the thread", kind=entry.kind, reply_id=earlier.id)
        moment = datetime.fromtimestamp(self.client.calls.server_time(), UTC)
        max_age = timedelta(hours=self.settings.max_mention_age_h)
        reason = etiquette.refusal_reason(status, me=me, now=moment, max_age=max_age)
        if reason:
            return _refused(reason)
        if self.hosts.is_blocked(status.account):
            return _refused("from a blocked instance")
        self.client.calls.require("post", "posting")  # checked first: without it all work would be wasted
        done = self._order(entry, status, me) or self._opt(entry, status)
        if done:
            return done
        is_delete = self.writer.texts.request(status.text) == "delete"
        if not self._admit(entry, status, factor=DELETES_PER_ANSWER if is_delete else 1):
            return self._over_limit(entry, status)
        if thread is None:
            thread = self.client.reader.thread(status.id) if status.in_reply_to_id else NO_THREAD
        if is_delete:
            self.contributions.delete(status, thread)
            return self._delete_answer(status, thread, me)
        return self._answer_question(entry, status, thread, me)

    def _order(self, entry: Entry, status: Status, me: Account) -> Outcome | None:
        """Executes an admin's direct mention; None if it is not an order."""
        if status.visibility != "direct" or status.account.id not in self.handlers.admins:
            return None
        language = self.writer.language(status)
        thread = self.client.reader.thread(status.id) if status.in_reply_to_id else NO_THREAD
        asked = etiquette.answered_above(status, thread, me=me)
        above = self.store.inbox.by_status(asked.id) if asked else None
        below = above.notification_id if above else None
        text = self.handlers.execute(
            entry.notification_id, status.account.id, status.text, language=language, below=below
        ) or self.feedback.judge(status, thread, me=me)
        if text is None:
            if not self._looks_like_order(status):
                return None
            text = self.handlers.unknown(status.text)
        first, *more = parts(text, self.writer.room(status))
        outcome = self._post(entry, status, self.writer.plain(first, to=status), kind="order")
        self._post_rest(entry, status, more, below=outcome.reply_id)
        return outcome

    def _looks_like_order(self, status: Status) -> bool:
        """Whether an admin's text that is not a known order was probably meant as one."""
        if status.attachments or not status.text:
            return False
        if status.in_reply_to_id:
            above = self.store.inbox.by_reply(status.in_reply_to_id)
            return above is not None and above.kind == "order"
        return self.writer.texts.request(status.text) is None

    def _post_rest(self, entry: Entry, status: Status, more: Sequence[str], *, below: str | None) -> None:
        """Posts the other parts of a long answer as a chain of replies; stops at the first error."""
        try:
            for number, text in enumerate(more, start=2):
                reply = self.writer.plain(text, to=status)
                key = f"{entry.idempotency_key}-{number}"
                below = self.client.poster.post(reply, in_reply_to=below, idempotency_key=key)
        except InstanceError as error:
            logger.warning("long answer not completed notification=%s error=%s", entry.notification_id, error)

    def _opt(self, entry: Entry, status: Status) -> Outcome | None:
        """Handles "stop" and "start", and accounts that opted out, which may still delete; None for all others."""
        request = self.writer.texts.request(status.text)
        account_id = status.account.id
        if request == "start":
            self.store.opt_outs.remove(account_id)
            return self._confirm(entry, status, "opted_in")
        may_ask = request == "delete" or (request == "stop" and entry.look_first)
        if self.consent.is_opted_out(status.account) and not may_ask:
            return _refused("opted out")
        if request == "stop":
            self.store.opt_outs.add(account_id)
            self.store.consents.withdraw(account_id)
            self.store.opinions.forget_account(account_id)
            self.contributions.forget_account(account_id)
            self.withdrawal.soon()
            return self._confirm(entry, status, "opted_out")
        return None

    def _confirm(self, entry: Entry, status: Status, kind: str) -> Outcome:
        return self._notice(entry, status, kind) if self._admit(entry, status) else _refused("over the limit")

    def _over_limit(self, entry: Entry, status: Status) -> Outcome:
        """Says once an hour that the limit is reached, if the mention surely asks: no call is made to find out."""
        asks = bool(status.attachments) or not status.in_reply_to_id
        if not asks or self._is_blocked_or_muted(status.account.id, entry):
            return _refused("over the limit")
        if not self.store.inbox.claim_notice(entry.notification_id, account_id=entry.account_id, kind="limit"):
            return _refused("over the limit")
        return self._notice(entry, status, "limit")

    def _delete_answer(self, status: Status, thread: Thread, me: Account) -> Outcome:
        """Deletes the bot's nearest answer to this account above its mention, or those about its own photo."""
        authors = {each.id: each.account.id for each in thread.ancestors}
        for each in reversed(thread.ancestors):
            if each.account.id != me.id:
                continue
            if self._take_back(each, thread, author_id=status.account.id):
                return _refused("asked us to delete what is about a photo")
            answered = self.store.inbox.by_reply(each.id)  # None if pruned, or if the database was lost
            if status.account.id == (answered.account_id if answered else authors.get(each.in_reply_to_id or "")):
                self.client.poster.delete(each.id)
                if answered:
                    self.store.inbox.finish(answered.notification_id, _refused("answer deleted when asked to"))
                return _refused("asked us to delete an answer")
        return _refused("asked us to delete, but there is no answer above")

    def _take_back(self, ours: Status, thread: Thread, *, author_id: str) -> bool:
        """Deletes all answers about a photo, if one given to others is `ours` and the photo this author's.

        Returns:
            Whether it did; the author's consent is gone too.
        """
        shown = self.store.shown.by_reply(ours.id)
        if shown is None:  # its record is lost, or from before photos were recorded
            photo = None if self.consent.is_request(ours) else etiquette.shown_by(ours, thread)
            question = etiquette.above(ours, thread)
            if photo is None or question is None or not photo.account.id == author_id != question.account.id:
                return False
            self.store.consents.withdraw(author_id, photo_id=photo.id)
            self.client.poster.delete(ours.id)
            return True
        answers = self.store.shown.of_photo(shown.photo_id)
        if shown.author_id != author_id or all(answer.asker_id == author_id for answer in answers):
            return False
        self.store.consents.withdraw(author_id, photo_id=shown.photo_id)
        # The one in this thread goes last: it shows a further try what to delete.
        answers.sort(key=lambda answer: answer.reply_id == ours.id)
        self.withdrawal.take_back(answers, reason="the photo's author asked to delete it")
        return True

    def _answer_question(self, entry: Entry, status: Status, thread: Thread, me: Account) -> Outcome:
        if self._is_blocked_or_muted(status.account.id, entry):
            return _refused("blocked or muted")
        if self.hosts.leaves_alone(status.account):
            return _refused("the instance asks bots to stay away")
        above = find_answered(status, thread, me=me, inbox=self.store.inbox)
        is_first = self.feedback.hear(status, thread, above, me=me) if above else None
        if is_first is not None:
            return self._notice(entry, status, "thanks") if is_first else _refused("another word about the same answer")
        last_try = entry.attempts >= min(self.settings.max_attempts, PHOTO_TRIES)
        text = self.contributions.hear(status, above, last_try=last_try) if above else None
        if text is not None:
            return self._notice(entry, status, text) if text else _refused(AGAIN)
        agreed_to = self.consent.given(status, thread, me=me)
        if etiquette.n_own_answers(thread, me=me) >= self.settings.max_answers_in_a_row:
            return _refused("enough answers in this thread")
        subject = etiquette.subject(status, thread, me=me, was_classified=self._was_classified)
        if agreed_to is not None and not status.attachments:
            subject = Subject("classify", agreed_to)
        if subject.action != "ask" or subject.status is None:
            return self._act(entry, status, subject)
        author = subject.status.account
        if self.consent.is_opted_out(author) or self._is_blocked_or_muted(author.id, entry):
            return _refused("the photo's author wants no bots")
        if self.hosts.leaves_alone(subject.status.account):
            return _refused("the instance of the photo's author wants no bots")
        with self._consent_lock:  # two mentions of the same photo must not ask its author twice
            subject = self.consent.find(subject.status, asker_id=status.account.id, me=me)
            if subject.action == "ask":
                return self._act(entry, status, subject)
        return self._act(entry, status, subject)

    def _act(self, entry: Entry, status: Status, subject: Subject) -> Outcome:
        """Takes the subject's action."""
        if subject.action == "refuse":
            return _refused(subject.reason)
        if subject.action == "classify" and subject.status:
            return self._classify(entry, status, subject.status)
        return self._notice(entry, status, "consent" if subject.action == "ask" else "help")

    def _classify(self, entry: Entry, status: Status, shown: Status) -> Outcome:
        if (status.sensitive or shown.sensitive) and not self.settings.answer_sensitive:
            return self._notice(entry, status, "sensitive")
        findings = self.photo_reader.classify(
            shown.attachments[: self.settings.max_images],
            thumbnails=self._may_upload(),
            last_try=entry.attempts >= min(self.settings.max_attempts, PHOTO_TRIES),
        )
        self._link(entry, status, shown)
        reply = self.writer.answer(findings, to=status, shown=shown)
        predictions = [finding for finding in findings if isinstance(finding, Prediction)]
        unknown = bool(predictions) and not any(prediction.is_known for prediction in predictions)
        outcome = self._post(entry, status, reply, kind="unknown" if unknown else "answer", findings=findings)
        if outcome.reply_id and shown.account.id != status.account.id and self.consent.is_opted_out(shown.account):
            self.client.poster.delete(outcome.reply_id)  # meanwhile
            return _refused("the photo's author wants no bots")
        return outcome

    def _link(self, entry: Entry, status: Status, shown: Status) -> None:
        """Records whose photos in which status an answer will be about, so that they can be taken back."""
        if shown.id != status.id:
            media_ids = {attachment.id for attachment in shown.attachments[: self.settings.max_images]}
            self.store.shown.link(
                entry.notification_id, photo_id=shown.id, author_id=shown.account.id, media_ids=media_ids
            )
        elif entry.look_first:  # perhaps it was about another status before it was edited
            self.store.shown.unlink(entry.notification_id)

    def _notice(self, entry: Entry, status: Status, kind: str) -> Outcome:
        return self._post(entry, status, self.writer.notice(kind, to=status), kind=kind)

    def _post(
        self, entry: Entry, status: Status, reply: Reply, *, kind: str, findings: Sequence[Finding] = ()
    ) -> Outcome:
        media_ids = self._pictures(findings, language=reply.language)
        self.store.inbox.mark_posting(entry.notification_id)
        reply_id = deliver(self.client, entry, status, reply, media_ids)
        best = _best(findings)
        return Outcome(
            "answered",
            kind=kind,
            reply_id=reply_id,
            label=best.label if best else None,
            score=best.score if best else None,
            version=best.version if best else None,
        )

    def _pictures(self, findings: Sequence[Finding], *, language: str) -> list[str]:
        """Uploads a picture of each prediction; stops at the first error, as the answer must not wait for pictures."""
        media_ids = []
        for finding in findings:
            if not isinstance(finding, Prediction) or not self._may_upload():
                continue
            try:
                card = illustrate(finding, self.writer, language=language)
                media_id = card and self.client.poster.upload(card[0], description=card[1], timeout_s=UPLOAD_TIMEOUT_S)
            except (InstanceError, OSError, ValueError) as error:
                logger.warning("answering without a picture: %s", error)
                break
            if media_id:
                media_ids.append(media_id)
        return media_ids

    def _may_upload(self) -> bool:
        """Whether the server still allows more uploads than `spare_uploads`."""
        left = self.client.calls.limits.remaining("upload")
        return self.settings.pictures and (left is None or left > self.settings.spare_uploads)

    def _admit(self, entry: Entry, status: Status, *, factor: int = 1) -> bool:
        """Counts a mention against its account's limit, before anything is asked or fetched; silences count as well."""
        new = etiquette.is_new(status.account, now=datetime.fromtimestamp(self.client.calls.server_time(), UTC))
        limit = self.settings.max_answers_per_hour_new if new else self.settings.max_answers_per_hour
        return self.store.inbox.admit(entry.notification_id, account_id=entry.account_id, limit=factor * limit)

    def _was_classified(self, status_id: str) -> bool:
        entry = self.store.inbox.by_status(status_id)
        return entry is not None and entry.state == "answered" and entry.kind in ("answer", "unknown")

    @cachedmethod(
        lambda self: self._blocked_or_muted,
        key=lambda _self, account_id, _entry: account_id,
        lock=lambda self: self._relations_lock,
    )
    def _is_blocked_or_muted(self, account_id: str, entry: Entry) -> bool:
        """Whether an account is muted or blocked; False if the server does not say."""
        try:
            return self.client.reader.relation(account_id).blocked_or_muted
        except (NotFound, OutOfScope, Refused, Transient) as error:
            # The token lacks read:follows, or the server lacks this call; it hides most such mentions from us anyway.
            may_pass = isinstance(error, Transient) and not isinstance(error, NoSuchPage)
            if (may_pass and entry.attempts < self.settings.max_attempts // 2) or getattr(error, "outage", False):
                raise
            logger.debug("relation unknown error=%s", error)
            return False


def _refused(reason: str) -> Outcome:
    return Outcome("refused", reason=reason)


def _best(findings: Sequence[Finding]) -> Prediction | None:
    """The first prediction that names a gallery; the inbox records it for the whole mention."""
    return next((each for each in findings if isinstance(each, Prediction) and each.is_known), None)
