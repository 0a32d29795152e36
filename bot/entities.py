"""The values passed from a mention to its reply: frozen dataclasses without network or disk access.

Ids are opaque strings, as the API says: only the server knows their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

Visibility = Literal["public", "unlisted", "private", "direct"]
VISIBILITIES: tuple[Visibility, ...] = ("public", "unlisted", "private", "direct")  # from wide to narrow


@dataclass(frozen=True, slots=True)
class Account:
    """An account on any instance.

    Source: https://docs.joinmastodon.org/entities/Account/
    """

    id: str
    acct: str  # user, or user@host when remote
    bot: bool
    created_at: datetime | None
    profile: str  # display name, note and fields, as plain text
    moved_to: str | None = None  # the id of the account that this one says it has moved to


@dataclass(frozen=True, slots=True)
class Attachment:
    """A media attachment of a status.

    Source: https://docs.joinmastodon.org/entities/MediaAttachment/
    """

    kind: str  # image, gifv, video, audio or unknown
    urls: tuple[str, ...]  # of a still picture of it, best first; empty while the server is processing it
    id: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """A status, reduced to what an answer needs.

    Source: https://docs.joinmastodon.org/entities/Status/
    """

    id: str
    account: Account
    created_at: datetime
    visibility: Visibility
    text: str  # plain text, without mentions
    language: str | None
    spoiler_text: str
    sensitive: bool
    attachments: tuple[Attachment, ...]  # in the order shown
    in_reply_to_id: str | None
    mentioned_ids: frozenset[str]  # of the accounts it mentions
    is_boost: bool
    edited_at: datetime | None = None  # None too where a server does not tell
    quoted: Status | None = None  # with its author's leave; without what that one quotes
    url: str = ""  # of its page; empty where a server does not tell


@dataclass(frozen=True, slots=True)
class Mention:
    """A notification of type "mention".

    Source: https://docs.joinmastodon.org/entities/Notification/
    """

    notification_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class Thread:
    """The statuses above and below a status, oldest first.

    Source: https://docs.joinmastodon.org/entities/Context/
    """

    ancestors: tuple[Status, ...]
    descendants: tuple[Status, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The champion's result for one photo."""

    scores: tuple[tuple[str, float], ...]  # (label, 0..1), highest first
    sure: bool  # the highest score reaches the version's threshold for its label
    version: str
    view: str  # of the photo that was classified (`trainer.photos.views`)
    heatmap: npt.NDArray[np.float32]  # (h, w) in 0..1: where in that view the evidence for the highest score is
    is_known: bool = True  # the photo looks like those that the version learned from
    thumbnail: npt.NDArray[np.uint8] | None = None  # (h, w, 3), with the photo's aspect ratio, if requested
    # What the view is cropped to: left, top, right, bottom, as shares of the photo's sides. None: it is not cropped.
    crop: tuple[float, float, float, float] | None = None

    @property
    def label(self) -> str:
        """The label with the highest score."""
        return self.scores[0][0]

    @property
    def score(self) -> float:
        """The highest score, 0..1."""
        return self.scores[0][1]


@dataclass(frozen=True, slots=True)
class Unseen:
    """A photo that cannot be classified.

    Attributes:
        reason: one word: a reason of `trainer.errors.ImageError`, or gone, no_preview, audio.
    """

    reason: str


Finding = Prediction | Unseen


@dataclass(frozen=True, slots=True)
class Reply:
    """A status to be posted.

    Attributes:
        shorter: texts that say less, the fullest first, for a server that refuses `text` as too long.
    """

    text: str
    visibility: Visibility
    spoiler_text: str
    sensitive: bool
    language: str
    shorter: tuple[str, ...] = ()
