"""Contributed photos about which nobody has decided, as the first suspects of the review page."""

from __future__ import annotations

from datetime import datetime

from trainer.config import Settings
from trainer.review.suspects import Suspect
from trainer.review.words import Words
from trainer.training.contributed import held


def waiting(settings: Settings, *, now: datetime) -> tuple[Suspect, ...]:
    """Contributed photos that wait for a person, the oldest first. Raises StorageError."""
    return tuple(
        Suspect(
            each.contribution.photo(""),
            None,
            "contributed",
            Words("contributed", {"label": each.contribution.label}),
            1.0,
            "keep",
        )
        for each in held(settings, now=now)
        if each.decision is None
    )
