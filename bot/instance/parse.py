"""Parses the API's JSON, as Mastodon.py returns it, into the bot's entities.

Servers omit fields, add others, and send null where a value is promised. Only ids, the account and the time are
required. Texts and lists are cut, as a stranger may have written them of any length, and mentions wait in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bot.entities import VISIBILITIES, Account, Attachment, Mention, Status, Thread, Visibility
from bot.instance.markup import plain_text, without_mentions
from trainer.quoting import visible

Json = Mapping[str, Any]

# Names may have letters of any script on some servers; a host may have a port.
_ACCT = re.compile(r"[\w.-]+(@[\w.-]+(:\d{1,5})?)?")
_URL = re.compile(r"https?://\S{1,300}")
MAX_ACCT = 320
MAX_HTML = 20_000  # characters of markup that are read
MAX_TEXT = 5_000  # characters of its text that are kept; a status of Mastodon has 500
MAX_ITEMS = 100  # attachments, accounts mentioned, fields of a profile


def mention(raw: Json) -> Mention | None:
    """Parses a notification; None if it is not a mention or has no status.

    Raises:
        KeyError, TypeError, ValueError: it has no id, or its status cannot be parsed.
    """
    if raw.get("type") != "mention" or not raw.get("status"):
        return None
    return Mention(notification_id=str(raw["id"]), status=status(raw["status"]))


def status(raw: Json) -> Status:
    """Parses a status.

    Raises:
        KeyError, TypeError, ValueError: it has no id, no account or no time.
    """
    return Status(
        id=str(raw["id"]),
        account=account(raw["account"]),
        created_at=_time(raw["created_at"]),
        visibility=_visibility(raw.get("visibility")),
        text=without_mentions(_plain(raw.get("content"))),
        language=_text(raw.get("language")) or None,
        spoiler_text=_text(raw.get("spoiler_text"))[:MAX_TEXT],
        sensitive=bool(raw.get("sensitive")),
        attachments=tuple(attachment(item) for item in (raw.get("media_attachments") or ())[:MAX_ITEMS]),
        in_reply_to_id=_id(raw.get("in_reply_to_id")),
        mentioned_ids=frozenset(str(item["id"]) for item in (raw.get("mentions") or ())[:MAX_ITEMS] if item.get("id")),
        is_boost=bool(raw.get("reblog")),
        edited_at=_optional_time(raw.get("edited_at")),
        quoted=_quoted(raw.get("quote")),
        url=_page_url(raw),
    )


def account(raw: Json) -> Account:
    """Parses an account; display name, note and fields become one plain text.

    Raises:
        KeyError, TypeError, ValueError: it has no id, or no name that can be mentioned.
    """
    fields = (raw.get("fields") or ())[:MAX_ITEMS]
    notes = [raw.get("note") or "", *(f"{field.get('name') or ''} {field.get('value') or ''}" for field in fields)]
    return Account(
        id=str(raw["id"]),
        acct=_acct(raw),
        bot=bool(raw.get("bot")),
        created_at=_optional_time(raw.get("created_at")),
        profile="\n".join([visible(_text(raw.get("display_name"))[:MAX_TEXT]), _plain("\n".join(notes))]),
        moved_to=_moved_to(raw.get("moved")),
    )


def _acct(raw: Json) -> str:
    """user, or user@host. Raises ValueError for what an answer could not name without naming others, or nobody."""
    acct = str(raw.get("acct") or raw["username"])
    if len(acct) > MAX_ACCT or not _ACCT.fullmatch(acct):
        raise ValueError(f"no name of an account: {acct[:MAX_ACCT]!r}")
    return acct


def attachment(raw: Json) -> Attachment:
    """Parses a media attachment.

    `url` is null while the server is processing it, or if it has no copy of a remote one (type "unknown").
    For other types than images only the preview is a still picture.
    """
    kind = str(raw.get("type") or "unknown")
    names = {"image": ("url", "preview_url", "remote_url"), "unknown": ("url", "remote_url", "preview_url")}
    urls = [_text(raw.get(name)) for name in names.get(kind, ("preview_url",))]
    return Attachment(kind=kind, urls=tuple(dict.fromkeys(filter(None, urls))), id=str(raw.get("id") or ""))


def thread(raw: Json) -> Thread:
    """Parses a status' context, without statuses whose author is gone, or has no name that can be mentioned."""
    return Thread(
        ancestors=tuple(status(item) for item in raw.get("ancestors") or () if _has_author(item)),
        descendants=tuple(status(item) for item in raw.get("descendants") or () if _has_author(item)),
    )


def _has_author(raw: Json) -> bool:
    try:
        return bool(raw.get("account") and _acct(raw["account"]))
    except ValueError:
        return False


def _text(value: object) -> str:
    """A text that may be missing; a value of another type counts as missing."""
    return value if isinstance(value, str) else ""


def _plain(html: object) -> str:
    """The plain text of markup; the beginning of it, if it is very long."""
    return plain_text(_text(html)[:MAX_HTML])[:MAX_TEXT]


def _quoted(quote: object) -> Status | None:
    """The status in a Quote, if its author has accepted that; None for a quote that cannot be read.

    Source: https://docs.joinmastodon.org/entities/Quote/
    """
    if not isinstance(quote, Mapping) or quote.get("state") != "accepted":
        return None
    try:
        return status({**quote["quoted_status"], "quote": None})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _page_url(raw: Json) -> str:
    """The address of a status' page; empty if it has none that can be a link."""
    found = (_text(raw.get(name)) for name in ("url", "uri"))
    return next((url for url in found if _URL.fullmatch(url)), "")


def _moved_to(raw: object) -> str | None:
    return _id(raw.get("id")) if isinstance(raw, Mapping) else None


def _id(value: object) -> str | None:
    return None if value is None else str(value)


def _optional_time(value: object) -> datetime | None:
    """Parses a time that may be missing; one that cannot be parsed counts as missing."""
    try:
        return _time(value)
    except (TypeError, ValueError):
        return None


def _time(value: object) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _visibility(value: object) -> Visibility:
    """Parses a visibility; an unknown one ("local", "mutuals_only", ...) is private, which is answered as `direct`.

    It is not direct itself: a direct mention of an admin's is a command.
    """
    return next((known for known in VISIBILITIES if known == value), "private")
