"""Takes photos in that their authors let the bot learn from, and takes them back when their authors want that.

Only the account that posted a photo can let the bot learn from it, in a reply to the bot's answer about it. A person
decides what becomes of the photo; the words of its author are no label.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime

from bot.entities import Status, Thread
from bot.errors import NotFound
from bot.instance.client import Client
from bot.mentions import etiquette
from bot.mentions.answered import Answered
from bot.mentions.hosts import Hosts
from bot.photos.photos import PhotoReader
from bot.reply.texts import Texts
from bot.storage.inbox import Entry
from bot.storage.store import Store
from trainer.errors import StorageError
from trainer.photos.contributions import (
    MAX_HEIGHT,
    MAX_HELD,
    MAX_OF_ACCOUNT,
    MAX_WIDTH,
    Contribution,
    Contributions,
    draw,
    new_id,
)

logger = logging.getLogger(__name__)

PER_LOOK = 20  # photos whose statuses each look checks, in turn
TAKEN, NOT_TAKEN = "contributed", "not_contributed"  # names of texts
AGAIN = "another word about the same photo"
Current = Callable[[Sequence[str]], Iterator[tuple[str, Status | None]]]


@dataclass(eq=False)
class ContributionKeeper:
    """The contributed photos, as the bot's side of their folder.

    Args:
        is_asked: photos may be contributed (`bot.contributions`); those that are there can be taken back in any case.
        tidy: has the trainer remove the traces of photos that were taken back; returns at once.
        now: seconds since the epoch.
    """

    client: Client
    store: Store
    texts: Texts
    hosts: Hosts
    photo_reader: PhotoReader
    folder: Contributions
    _: KW_ONLY
    is_asked: bool
    tidy: Callable[[], object]
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._held = {each.id: each for each in self.folder.all()}
        self._urgent: set[str] = set()  # ids of contributions
        self._last = ""
        self._lock = threading.RLock()

    def hear(self, status: Status, above: Answered, *, last_try: bool) -> str | None:
        """Takes a photo in, if a reply to an answer is its author's word that the bot may learn from it.

        Returns:
            The name of the text to answer with; "" if the author has said so before; None if it is no such reply.

        Raises:
            InstanceError: a call failed, or the photo cannot be fetched now.
        """
        if not self.is_asked or self.texts.request(status.text) != "learn" or status.attachments or status.quoted:
            return None
        ours, answered = above.answer, above.mention
        if answered.label is None:
            return None
        shown = self.store.shown.by_reply(ours.id)
        photo_id = shown.photo_id if shown else answered.status_id
        if status.account.id != (shown.author_id if shown else answered.account_id):
            return None
        known = self._find(photo_id)
        if known is not None:
            return TAKEN if known.word_id == status.id else ""
        media_ids = shown.media_ids if shown else None
        try:
            is_taken = self._take(photo_id, status, ours, answered, media_ids=media_ids, last_try=last_try)
        except StorageError as error:
            logger.error("contribution not stored status=%s error=%s", status.id, error)
            is_taken = False
        return TAKEN if is_taken else NOT_TAKEN

    def delete(self, status: Status, thread: Thread) -> None:
        """Takes back what the author of a status has contributed in its thread. Raises StorageError."""
        ids = {each.id for each in thread.ancestors}
        self._take_back(
            (each for each in self._all() if each.account_id == status.account.id and ids & _statuses(each)),
            reason="its author asked to delete it",
        )

    def forget_account(self, account_id: str) -> None:
        """Takes back all that an account has contributed. Raises StorageError."""
        mine = (each for each in self._all() if each.account_id == account_id)
        self._take_back(mine, reason="its author opted out")

    def changed(self, status_id: str) -> bool:
        """Whether a deleted or edited status has to do with a contribution, which the next look then checks."""
        found = {each.id for each in self._all() if status_id in _statuses(each)}
        with self._lock:
            self._urgent |= found
        return bool(found)

    def look(self, current: Current) -> int:
        """Takes back photos that are gone, or that their authors do not give any more; returns how many.

        Args:
            current: gives statuses as they are now, None if gone, without those of which that is unclear.

        Raises:
            InstanceError, StorageError: a call, or a file, failed; the next look goes on.
        """
        self._reload()
        out = [each for each in self._all() if each.account_id in self.store.opt_outs]
        n_gone = self._take_back(out, reason="its author opted out")
        checked = self._next()
        by_status: dict[str, list[Contribution]] = {}
        for each in checked:
            for status_id in _statuses(each):
                by_status.setdefault(status_id, []).append(each)
        for status_id, status in current(list(by_status)):
            for each in by_status[status_id]:
                reason = self._reason(each, status_id, status)
                if reason:
                    n_gone += self._take_back([each], reason=reason)
        with self._lock:
            self._urgent -= {each.id for each in checked}
        return n_gone

    def _take(
        self,
        photo_id: str,
        status: Status,
        ours: Status,
        answered: Entry,
        *,
        media_ids: Collection[str] | None,
        last_try: bool,
    ) -> bool:
        """Fetches the photo again and stores a small copy, if all is as it has to be."""
        try:
            photo = self.client.reader.status(photo_id)
        except NotFound:
            return False
        if not self._fits(photo, status, ours, media_ids) or not self._has_room(status.account.id):
            return False
        attachment = photo.attachments[0]
        pixels = self.photo_reader.small_copy(attachment, max_width=MAX_WIDTH, max_height=MAX_HEIGHT, last_try=last_try)
        if pixels is None:
            return False
        data = draw(pixels)
        contribution = Contribution(
            id=new_id(),
            sha256=hashlib.sha256(data).hexdigest(),
            label=answered.label or "",
            account_id=status.account.id,
            photo_id=photo.id,
            media_id=attachment.id,
            answer_id=ours.id,
            word_id=status.id,
            width=pixels.shape[1],
            height=pixels.shape[0],
            n_bytes=len(data),
            offered_at=datetime.fromtimestamp(self.now(), UTC),
        )
        with self._lock:  # an account may say it about several photos at once
            is_there = any(each.sha256 == contribution.sha256 for each in self._held.values())
            if is_there or not self._has_room(status.account.id) or status.account.id in self.store.opt_outs:
                return False
            self.folder.put(contribution, data)
            self._held[contribution.id] = contribution
        logger.info("contribution id=%s photo=%s word=%s", contribution.id, photo.id, status.id)
        return True

    def _fits(self, photo: Status, status: Status, ours: Status, media_ids: Collection[str] | None) -> bool:
        """Whether a photo is its author's, alone in a public status, not sensitive, and the one that was answered."""
        return (
            photo.account.id == status.account.id
            and not etiquette.wants_no_bots(photo.account)
            and photo.visibility in ("public", "unlisted")
            and not photo.sensitive
            and [each.kind for each in photo.attachments] == ["image"]
            and (media_ids is None or etiquette.media_ids(photo) == media_ids)
            and (photo.edited_at is None or photo.edited_at <= ours.created_at)
        )

    def _has_room(self, account_id: str) -> bool:
        held = self._all()
        return len(held) < MAX_HELD and sum(each.account_id == account_id for each in held) < MAX_OF_ACCOUNT

    def _reason(self, each: Contribution, status_id: str, status: Status | None) -> str:
        """Why a photo is taken back, from one of its statuses as it is now; "" if it is not."""
        if status is None:
            return "its status, its author's word or the answer was deleted"
        if status_id == each.word_id:
            return "" if self.texts.request(status.text) == "learn" else "its author took the word back"
        if status_id == each.answer_id:
            return ""
        if etiquette.wants_no_bots(status.account) or self.hosts.leaves_alone(status.account):
            return "its author wants no bots"
        if each.media_id not in etiquette.media_ids(status):
            return "it was edited out"
        return "it was marked as sensitive" if status.sensitive else ""

    def _take_back(self, contributions: Iterable[Contribution], *, reason: str) -> int:
        n_gone = 0
        for each in contributions:
            n_gone += self.folder.take_back(each.id)
            with self._lock:
                self._held.pop(each.id, None)
            logger.info("contribution taken back id=%s reason=%s", each.id, reason)
        if n_gone:
            self.tidy()
        return n_gone

    def _next(self) -> list[Contribution]:
        """Those to check now: urgent ones, and some of the others in turn."""
        with self._lock:
            order = sorted(self._held)
            after = [id_ for id_ in order if id_ > self._last][:PER_LOOK]
            self._last = after[-1] if len(after) == PER_LOOK else ""
            return [self._held[id_] for id_ in dict.fromkeys([*sorted(self._urgent), *after]) if id_ in self._held]

    def _reload(self) -> None:
        """Reads the folder again, as the trainer deletes what was dropped, or not settled in time."""
        with self._lock:
            self._held = {each.id: each for each in self.folder.all()}

    def _all(self) -> list[Contribution]:
        with self._lock:
            return list(self._held.values())

    def _find(self, photo_id: str) -> Contribution | None:
        return next((each for each in self._all() if each.photo_id == photo_id), None)


def _statuses(each: Contribution) -> set[str]:
    return {each.photo_id, each.word_id, each.answer_id}
