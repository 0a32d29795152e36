"""Which answers are about a photo in another status than their question: whose photo it is, and which files."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from bot.storage.database import Database

_ANSWERS = (
    "SELECT notification_id, reply_id, account_id, shown.photo_id, shown.author_id, shown.media, yes_id FROM shown"
    " JOIN inbox USING (notification_id)"
    " LEFT JOIN consents ON consents.photo_id = shown.photo_id AND consents.asker_id = inbox.account_id"
    " WHERE inbox.state = 'answered' AND inbox.reply_id IS NOT NULL AND "
)


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer that was posted, and the photos that it is about.

    Attributes:
        reply_id: the answer.
        asker_id: to whom it was given.
        photo_id: the status with the photos.
        author_id: the account that posted them.
        media_ids: of the photos.
        yes_id: the status in which the author agreed that this asker gets it; None if it needs no consent.
    """

    notification_id: str
    reply_id: str
    asker_id: str
    photo_id: str
    author_id: str
    media_ids: frozenset[str]
    yes_id: str | None


@dataclass(eq=False)
class ShownPhotos:
    """The links from answers to photos; a link is pruned with its mention.

    Raises (all methods):
        StorageError: the disk is full, or the file locked or damaged; nothing was changed.
    """

    database: Database

    def link(self, notification_id: str, *, photo_id: str, author_id: str, media_ids: Collection[str]) -> None:
        """Records, before a mention is answered, what the answer will be about."""
        with self.database.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO shown VALUES (?, ?, ?, ?)",
                (notification_id, photo_id, author_id, " ".join(sorted(media_ids))),
            )

    def unlink(self, notification_id: str) -> None:
        """Records that a mention's answer will be about the mention's own photos."""
        with self.database.transaction() as db:
            db.execute("DELETE FROM shown WHERE notification_id = ?", (notification_id,))

    def by_reply(self, reply_id: str) -> Shown | None:
        """What an answer is about; None if it has no link."""
        return next(iter(self._select("inbox.reply_id = ?", reply_id)), None)

    def of_photo(self, photo_id: str) -> list[Shown]:
        """All answers about the photos in a status."""
        return self._select("shown.photo_id = ?", photo_id)

    def of_opted_out(self) -> list[Shown]:
        """All answers about photos of accounts that have opted out since."""
        return self._select("shown.author_id IN (SELECT account_id FROM opt_outs)")

    def newest(self, limit: int, *, since: float) -> list[Shown]:
        """Answers given since a time (seconds since the epoch), the newest first."""
        return self._select("inbox.finished_at >= ? ORDER BY inbox.finished_at DESC LIMIT ?", since, limit)

    def _select(self, where: str, *values: object) -> list[Shown]:
        with self.database.transaction() as db:
            return [_shown(row) for row in db.execute(_ANSWERS + where, values)]


def _shown(row: sqlite3.Row) -> Shown:
    notification_id, reply_id, asker_id, photo_id, author_id, media, yes_id = row
    return Shown(notification_id, reply_id, asker_id, photo_id, author_id, frozenset(media.split(" ")), yes_id)
