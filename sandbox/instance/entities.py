"""Converts records to the JSON entities of the API.

Source: app/serializers/rest/ of Mastodon 4.5, https://docs.joinmastodon.org/entities/
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sandbox.instance.host import Host
from sandbox.instance.media import MediaStore, file_name
from sandbox.instance.records import Account, App, Media, Notification, Status, Token

Json = dict[str, Any]


def stamp(at: datetime) -> str:
    """Format a time as ISO 8601 in UTC with milliseconds, as Rails does."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


class Entities:
    """Builds API entities; `viewer` is the account of the caller, or None."""

    def __init__(self, host: Host, media: MediaStore) -> None:
        self._host = host
        self._media = media

    def account_url(self, account: Account) -> str:
        if account.domain is not None:
            return f"https://{account.domain}/@{account.username}"
        return f"{self._host.base_url}/@{account.username}"

    def status_url(self, status: Status) -> str:
        return f"{self.account_url(status.account)}/{status.id}"

    def _id(self, number: int | None) -> str | None:
        return None if number is None else self._host.shown_id(number)

    def _acct(self, account: Account) -> str:
        is_full = account.domain is None and self._host.settings.profile.full_names
        return f"{account.acct}@{self._host.settings.domain}" if is_full else account.acct

    def account(self, account: Account) -> Json:
        moved = {} if account.moved_to is None else {"moved": self._account(account.moved_to)}
        return self._account(account) | moved

    def _account(self, account: Account) -> Json:
        """An Account without the one that it has moved to, as that one is shown."""
        missing = f"{self._host.base_url}/avatars/original/missing.png"
        return {
            "id": self._host.shown_id(account.id),
            "username": account.username,
            "acct": self._acct(account),
            "display_name": account.display_name,
            "locked": False,
            "bot": account.bot,
            "discoverable": True,
            "indexable": False,
            "group": False,
            "created_at": account.created_at.strftime("%Y-%m-%dT00:00:00.000Z"),
            "note": account.note,
            "url": self.account_url(account),
            "uri": f"{self.account_url(account).replace('/@', '/users/')}",
            "avatar": missing,
            "avatar_static": missing,
            "avatar_description": "",
            "header": missing,
            "header_static": missing,
            "header_description": "",
            "followers_count": 0,
            "following_count": len(account.following),
            "statuses_count": 0,
            "last_status_at": None,
            "hide_collections": None,
            "noindex": False,
            "emojis": [],
            "roles": [],
            "fields": [],
        } | ({"suspended": True} if account.suspended else {})

    def own_account(self, account: Account) -> Json:
        """A CredentialAccount, with the fields that only its owner sees."""
        source = {
            "privacy": "public",
            "sensitive": False,
            "language": None,
            "note": account.note,
            "fields": [],
            "follow_requests_count": 0,
            "hide_collections": None,
            "discoverable": True,
            "indexable": False,
            "attribution_domains": [],
            "quote_policy": "public",
        }
        role = {"id": "-99", "name": "", "permissions": "0", "color": "", "highlighted": False}
        return self.account(account) | {"source": source, "role": role}

    def relationship(self, viewer: Account, other: Account) -> Json:
        return {
            "id": self._host.shown_id(other.id),
            "following": other.id in viewer.following,
            "showing_reblogs": other.id in viewer.following,
            "notifying": False,
            "languages": None,
            "followed_by": viewer.id in other.following,
            "blocking": other.id in viewer.blocking,
            "blocked_by": viewer.id in other.blocking,
            "muting": other.id in viewer.muting,
            "muting_notifications": other.id in viewer.muting,
            "muting_expires_at": None,
            "requested": False,
            "requested_by": False,
            "domain_blocking": False,
            "endorsed": False,
            "note": "",
        }

    def media(self, media: Media) -> Json:
        """A MediaAttachment; `url` is null during processing and after a failure."""
        done = not (self._media.is_processing(media) or media.failed)
        url = media.url or self._file_url(media, "original")
        preview_url = media.url or self._file_url(media, "small")
        return {
            "id": self._host.shown_id(media.id),
            "type": media.type,
            "url": url if done else None,
            "preview_url": preview_url if done else None,
            "remote_url": media.remote_url,
            "preview_remote_url": None,
            "text_url": None,
            "meta": self._meta(media),
            "description": media.description or None,
            "blurhash": None,
        }

    def _meta(self, media: Media) -> Json:
        if not media.width or not media.height:
            return {}
        size = f"{media.width}x{media.height}"
        aspect = media.width / media.height
        return {"original": {"width": media.width, "height": media.height, "size": size, "aspect": aspect}}

    def _file_url(self, media: Media, kind: str) -> str:
        if media.type == "unknown" or media.remote_url is not None:
            return f"{self._host.base_url}/media_proxy/{media.id}/{kind}"
        if kind == "small" and media.type == "audio":
            kind = "original"
        folder = f"{self._host.base_url}/system/media_attachments/files/{media.id}"
        return f"{folder}/{kind}/{file_name(media, kind)}"

    def status(self, status: Status, viewer: Account | None) -> Json:
        shown: Json = {
            "id": self._host.shown_id(status.id),
            "created_at": stamp(status.created_at),
            "in_reply_to_id": self._id(status.in_reply_to_id),
            "in_reply_to_account_id": self._id(status.in_reply_to_account_id),
            "sensitive": status.sensitive,
            "spoiler_text": status.spoiler_text,
            "visibility": status.visibility,
            "language": status.language,
            "uri": f"{self.account_url(status.account).replace('/@', '/users/')}/statuses/{status.id}",
            "url": self.status_url(status),
            "replies_count": status.n_replies,
            "reblogs_count": len(status.reblogged_by),
            "favourites_count": len(status.favourited_by),
            "quotes_count": 0,
            "edited_at": stamp(status.edited_at) if status.edited_at else None,
            "content": status.content,
            "reblog": self.status(status.reblog, viewer) if status.reblog else None,
            "application": {"name": status.app.name, "website": status.app.website} if status.app else None,
            "account": self.account(status.account),
            "media_attachments": [self.media(media) for media in status.media],
            "mentions": [self._mention(account) for account in status.mentions],
            "tags": [{"name": tag, "url": f"{self._host.base_url}/tags/{tag}"} for tag in status.tags],
            "emojis": [],
            "quote": self._quote(status, viewer),
            "card": None,
            "poll": None,
        }
        if viewer is not None:
            shown |= {
                "favourited": viewer.id in status.favourited_by,
                "reblogged": viewer.id in status.reblogged_by,
                "muted": False,
                "bookmarked": False,
                "filtered": [],
            }
            if viewer is status.account:
                shown["pinned"] = False
        return shown

    def _quote(self, status: Status, viewer: Account | None) -> Json | None:
        """A Quote; inside a quoted status a ShallowQuote. Source: app/serializers/rest/base_quote_serializer.rb"""
        quoted = status.quoted
        if quoted is None or not self._host.settings.profile.quotes:
            return None
        shown = None
        if status.quote_state == "accepted":
            inner = (
                {"state": quoted.quote_state, "quoted_status_id": self._id(quoted.quoted.id)} if quoted.quoted else None
            )
            shown = self.status(replace(quoted, quoted=None), viewer) | {"quote": inner}
        return {"state": status.quote_state, "quoted_status": shown}

    def deleted_status(self, status: Status) -> Json:
        """A deleted status with its source text, for "delete and re-draft"."""
        return self.status(status, status.account) | {"text": status.text}

    def _mention(self, account: Account) -> Json:
        return {
            "id": self._host.shown_id(account.id),
            "username": account.username,
            "url": self.account_url(account),
            "acct": self._acct(account),
        }

    def notification(self, notification: Notification) -> Json:
        shown: Json = {
            "id": self._host.shown_id(notification.id, notification.type),
            "type": notification.type,
            "created_at": stamp(notification.created_at),
            "group_key": f"ungrouped-{notification.id}",
            "account": self.account(notification.sender),
        }
        if notification.filtered:
            shown["filtered"] = True
        if notification.status is not None:
            shown["status"] = self.status(notification.status, notification.account)
        return shown

    def app(self, app: App, *, with_secret: bool) -> Json:
        shown: Json = {
            "id": str(app.id),
            "name": app.name,
            "website": app.website,
            "scopes": list(app.scopes),
            "redirect_uris": list(app.redirect_uris),
            "redirect_uri": "\n".join(app.redirect_uris),
        }
        if with_secret:
            shown |= {"client_id": app.client_id, "client_secret": app.client_secret, "client_secret_expires_at": 0}
        return shown

    def token(self, token: Token) -> Json:
        return {
            "access_token": token.value,
            "token_type": "Bearer",
            "scope": " ".join(token.scopes),
            "created_at": int(token.created_at.timestamp()),
        }
