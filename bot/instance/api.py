"""Mastodon.py, leaving the longest answers as the JSON that they are.

It converts each value of an answer to a type, which takes it a quarter of a second for a thread of 200 statuses: who
writes long threads below a photo would slow all others down. `bot.instance.parse` reads JSON. Mastodon.py looks up the
type of an answer in the annotation of the called method, so other annotations are all that is needed.
"""  # and no `from __future__ import annotations`: the annotations must be types

from typing import Any

from mastodon import Mastodon


class Api(Mastodon):  # type: ignore[misc]
    """A `Mastodon` object whose threads and notifications are dicts and lists of the standard library's kinds."""

    def status_context(self, id: str) -> dict:  # type: ignore[type-arg]  # noqa: A002
        """Ancestors and descendants of a status, as JSON."""
        return super().status_context(id)  # type: ignore[no-any-return]

    def notifications(self, **arguments: Any) -> list:  # type: ignore[type-arg]
        """A page of notifications, the newest first, as JSON."""
        return super().notifications(**arguments)  # type: ignore[no-any-return]
