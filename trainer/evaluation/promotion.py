"""Decides whether a challenger replaces the champion, on the same photos.

Both answer today's holdout; members are drawn again and again, and in each draw both are judged on the same members.
The challenger takes over only if the whole `evaluate.confidence` interval of what it gains lies above zero, and if no
class loses more than `evaluate.max_class_loss`. With 95% confidence, one of forty challengers that are just as good as
the champion takes over by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import EvaluateSettings
from trainer.evaluation.evaluate import member_tables, recalls, resample

Doubles = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]


MIN_MEMBERS = 3  # of each label; draws from fewer are so alike that anything looks sure


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger replaces the champion, and why.

    Attributes:
        reasons: sentences; the first is the decisive one.
        gain: balanced accuracy of the challenger less the champion's, -1..1; `gain_low` and `gain_high` are the ends
            of its interval. None where there was no champion to compare with.
        class_gains: label -> recall gained, below 0 where it was lost.
        n_photos: that both were judged on.
    """

    promoted: bool
    reasons: tuple[str, ...]
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    class_gains: dict[str, float] | None = None
    n_photos: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(
    champion: Indexes,
    challenger: Indexes,
    class_indexes: Indexes,
    groups: Sequence[str],
    *,
    labels: Sequence[str],
    settings: EvaluateSettings,
) -> Verdict:
    """Judge a challenger.

    Args:
        champion: (n,) the class indexes that it answers for the holdout's photos; k for a label that is none of these.
        challenger: (n,) those of the other, for the same photos.
        class_indexes: (n,) what the photos are.
        groups: (n,) whose they are.
        labels: k names.
    """
    tables = np.stack(
        [
            member_tables(class_indexes, answers, groups, n_classes=len(labels), n_answers=len(labels) + 1)
            for answers in (champion, challenger)
        ],
        axis=2,
    )  # (members, true label, champion or challenger, answer)
    gains = _class_gains(tables.sum(axis=0)[None].astype(np.float64))[0]
    drawn = np.nanmean(_class_gains(resample(tables, n=settings.resamples)), axis=1)
    tail = (1 - settings.confidence) / 2
    low, high = (float(end) for end in np.quantile(drawn, [tail, 1 - tail]))
    gain = float(np.nanmean(gains))
    class_gains = {label: float(value) for label, value in zip(labels, gains, strict=True) if not np.isnan(value)}
    interval = f"{100 * gain:+.1f} points ({settings.confidence:.0%} interval {100 * low:+.1f} to {100 * high:+.1f})"
    allowed = f"{100 * settings.max_class_loss:.1f}"
    objections = [f"not surely better: balanced accuracy changes by {interval}"] if low <= 0 else []
    n_members = (tables.sum(axis=(2, 3)) > 0).sum(axis=0)
    objections += [
        f"the holdout has photos of {n} members of {label}, {MIN_MEMBERS} are needed to be sure"
        for label, n in zip(labels, n_members, strict=True)
        if n < MIN_MEMBERS
    ]
    objections += [
        f"{label} loses {-100 * value:.1f} points of recall, more than {allowed}"
        for label, value in class_gains.items()
        if -value > settings.max_class_loss
    ]
    reasons = objections or [
        f"better: balanced accuracy changes by {interval}, and no class loses more than {allowed} points of recall"
    ]
    return Verdict(not objections, tuple(reasons), gain, low, high, class_gains, len(class_indexes))


def _class_gains(confusion: Doubles) -> Doubles:
    """(n, k, 2, k + 1) confusion matrices of both -> (n, k) recall gained."""
    return recalls(confusion[:, :, 1]) - recalls(confusion[:, :, 0])
