"""Posts and deletes statuses, and uploads media."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mastodon import Mastodon

from bot.entities import Reply
from bot.errors import NoSuchPage, NotFound
from bot.instance.calls import ASSUMED_VERSION, Calls

logger = logging.getLogger(__name__)

MEDIA_PAUSE_S = 0.5  # between checks of an upload that the server is still processing
_OLD_VERSION = (3, 0, 0)  # with it Mastodon.py does not use /api/v2/media, which some servers lack


@dataclass(eq=False)
class Poster:
    """Posts and deletes statuses; uploads media.

    Raises (all methods that call the server):
        RateLimited, Unauthorized, NotFound, Refused, Transient: see `bot.errors`.
    """

    calls: Calls

    def __post_init__(self) -> None:
        self._knows_media_v2 = True

    def post(
        self, reply: Reply, *, in_reply_to: str | None, idempotency_key: str, media_ids: Sequence[str] = ()
    ) -> str:
        """Posts a reply, or with `in_reply_to` None a status; returns its id."""
        return self.calls.read(
            "post",
            "posting",
            lambda api: api.status_post(
                reply.text,
                in_reply_to_id=in_reply_to,
                media_ids=list(media_ids) or None,
                sensitive=reply.sensitive,
                visibility=reply.visibility,
                spoiler_text=reply.spoiler_text or None,
                language=reply.language,
                idempotency_key=idempotency_key,
            ),
            _id,
        )

    def upload(self, jpeg: bytes, *, description: str, timeout_s: float) -> str | None:
        """Uploads a picture; returns its id, or None if the server does not finish processing it in time."""

        def send(api: Mastodon) -> Any:
            api.request_timeout = min(timeout_s, self.calls.settings.request_timeout_s)
            api.mastodon_major, api.mastodon_minor, api.mastodon_patch = (
                ASSUMED_VERSION if self._knows_media_v2 else _OLD_VERSION
            )
            try:
                return api.media_post(jpeg, mime_type="image/jpeg", description=description)
            finally:
                api.request_timeout = self.calls.settings.request_timeout_s
                api.mastodon_major, api.mastodon_minor, api.mastodon_patch = ASSUMED_VERSION

        what = "uploading a picture"
        deadline = time.monotonic() + timeout_s
        try:
            uploaded = self.calls.call("upload", what, send)
        except (NotFound, NoSuchPage):
            if not self._knows_media_v2:
                raise
            self._knows_media_v2 = False
            uploaded = self.calls.call("upload", what, send)
        media_id = self.calls.readable(what, _id, uploaded)
        while not uploaded.get("url"):  # Mastodon processes a picture at once, other servers later
            if time.monotonic() + MEDIA_PAUSE_S > deadline:
                return None
            time.sleep(MEDIA_PAUSE_S)
            uploaded = self.calls.call("call", what, lambda api: api.media(media_id))
        return media_id

    def delete(self, status_id: str) -> None:
        """Deletes a status of the bot; does nothing if it is gone already."""
        try:
            self.calls.call(
                "delete", f"deleting status {status_id}", lambda api: api.status_delete(status_id, delete_media=True)
            )
        except NotFound:
            logger.debug("already gone status=%s", status_id)

    # Checks of the token's scopes that change nothing

    def probe_posting(self) -> None:
        """Tries to delete a status that does not exist: NotFound if the token may post, OutOfScope if not.

        An empty post would test it too, but not every server refuses that.
        """
        self.calls.call("delete", "trying to post", lambda api: api.status_delete("0"))

    def probe_media(self) -> None:
        """Tries to change an attachment that does not exist: NotFound if the token may upload, OutOfScope if not."""
        self.calls.call("call", "trying to upload", lambda api: api.media_update("0"))


def _id(found: object) -> str:
    """The id of what was created. Raises ValueError for an answer without one, as `{}`: perhaps nothing was created."""
    created = found.get("id") if isinstance(found, Mapping) else None
    if not created:
        raise ValueError("it has no id")
    return str(created)
