"""The values that travel from a mention to its reply: frozen, plain, and knowing nothing of the network or the disk.

Ids are opaque strings, as the API says; `id_order` is the one place that compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

Visibility = Literal["public", "unlisted", "private", "direct"]
VISIBILITIES: tuple[Visibility, ...] = ("public", "unlisted", "private", "direct")  # from wide to narrow


def id_order(entity_id: str) -> tuple[int, str]:
    """A sort key: older ids first.

    Mastodon's ids are decimal numbers in strings, so the longer is the larger; as text, "9" would come after "10".
    Ids of one fixed length, as other servers have, keep their text order.
    """
    return len(entity_id), entity_id


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody on some instance.

    Source: https://docs.joinmastodon.org/entities/Account/
    """

    id: str
    acct: str  # user, or user@host when remote
    bot: bool
    created_at: datetime | None
    profile: str  # the name as shown, the note and the fields, as plain text


@dataclass(frozen=True, slots=True)
class Attachment:
    """A media attachment of a status.

    Source: https://docs.joinmastodon.org/entities/MediaAttachment/
    """

    kind: str  # image, gifv, video, audio or unknown
    urls: tuple[str, ...]  # where a still picture of it may be had, best first; empty while the server is processing it


@dataclass(frozen=True, slots=True)
class Status:
    """A status, cut down to what an answer needs.

    Source: https://docs.joinmastodon.org/entities/Status/
    """

    id: str
    account: Account
    created_at: datetime
    visibility: Visibility
    text: str  # plain text, without the names it mentions
    language: str | None
    spoiler_text: str
    sensitive: bool
    attachments: tuple[Attachment, ...]  # in the order shown
    in_reply_to_id: str | None
    mentioned_ids: frozenset[str]  # of the accounts that it mentions
    is_boost: bool


@dataclass(frozen=True, slots=True)
class Mention:
    """A notification of type "mention".

    Source: https://docs.joinmastodon.org/entities/Notification/
    """

    notification_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class Thread:
    """What stands around a status, oldest first.

    Source: https://docs.joinmastodon.org/entities/Context/
    """

    ancestors: tuple[Status, ...]
    descendants: tuple[Status, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the champion says about one photo."""

    scores: tuple[tuple[str, float], ...]  # (label, 0..1), highest first
    sure: bool  # the highest score reaches the version's threshold
    version: str
    view: str  # of the photo that was judged; one of `trainer.config.VIEWS`
    heatmap: npt.NDArray[np.float32]  # (h, w) in 0..1, where in that view the evidence for the highest score lies
    thumbnail: npt.NDArray[np.uint8] | None = None  # (h, w, 3), the photo in its own proportions, where asked for

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
    """A photo that cannot be judged.

    Attributes:
        reason: one word: a reason of `trainer.errors.ImageError`, or gone, no_preview, audio.
    """

    reason: str


Finding = Prediction | Unseen


@dataclass(frozen=True, slots=True)
class Reply:
    """A status about to be posted."""

    text: str
    visibility: Visibility
    spoiler_text: str
    sensitive: bool
    language: str
