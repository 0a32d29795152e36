"""Tells admins how many stored photos are worth a second look, and where they settle them; never a photo.

The numbers are those of the last review, which the trainer makes in a process of its own. A message may pass other
servers, so it holds no token of the page, and its address is no link: a server would look there for a preview.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from bot.admin.status import span
from bot.config import Settings
from trainer import review_state
from trainer.registry import serving
from trainer.review_state import LastReview

FRESH_S = 24 * 3600.0
SERVE = "`python -m trainer review --serve`"


def needs_look(settings: Settings, last: LastReview | None, *, now: float) -> bool:
    """Whether photos have come or gone since the last review, or it is a day old. Raises StorageError."""
    if last is None or now - last.looked_at.timestamp() > FRESH_S:
        return True
    return last.n_photos != sum(serving.holdings(settings).n_by_label.values())


def describe(settings: Settings, last: LastReview | None, *, now: float) -> list[str]:
    """The answer to the order `review`, in lines. Raises StorageError."""
    n_waiting = serving.n_contributed(settings)
    offered = [f"Contributed by their authors, and waiting for a decision: {n_waiting:,}."] if n_waiting else []
    return [*_numbers(settings, last, now=now), *offered, _page(review_state.page_address(settings.data_dir))]


def in_short(settings: Settings) -> str:
    """One sentence about the last review; "" if there is none. Raises StorageError."""
    last = review_state.last_review(settings.data_dir)
    if last is None:
        return ""
    return f"Photos worth a second look: {_n_left(settings, last):,} (“review” tells more)."


def _numbers(settings: Settings, last: LastReview | None, *, now: float) -> list[str]:
    if last is None:
        return ["No review yet."]
    age = span(max(0.0, now - last.looked_at.timestamp()))
    lines = [f"{last.n_suspects:,} suspects among {last.n_photos:,} photos, {age} ago: {_list(last.by_kind)}."]
    if last.by_label:
        lines.append(f"By label: {_list(last.by_label)}.")
    since, total = serving.settled(settings, since=last.looked_at.astimezone(UTC)), serving.settled(settings)
    done = f"Settled by hand since then: {sum(since.values()):,}"
    return [*lines, f"{done}; in all: {_list(total)}." if total else f"{done}."]


def _n_left(settings: Settings, last: LastReview) -> int:
    since: datetime = last.looked_at.astimezone(UTC)
    return max(0, last.n_suspects - sum(serving.settled(settings, since=since).values()))


def _page(address: str | None) -> str:
    if address is None:
        return f"No page is open. {SERVE} on the trainer's machine opens one and prints its address."
    port = address.rpartition(":")[2]
    return (
        f"The page is open at {address} on the trainer's machine (from elsewhere: ssh -L {port}:{address}). The whole "
        f"address, which works once, stands where {SERVE} runs; it is never sent."
    )


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"
