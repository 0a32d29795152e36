"""Decides whether a challenger replaces the champion, by evaluating both on the same photos.

Both classify the current holdout. A paired bootstrap resamples its members, and evaluates both on each sample. The
challenger is promoted only if the `evaluate.confidence` interval of its gain is above zero, and if no class loses more
than `evaluate.max_class_loss`. With 95% confidence, one of forty equally good challengers is promoted by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trainer.config import EvaluateSettings
from trainer.evaluation.evaluate import Doubles, member_tables, recalls, resample
from trainer.head.calibration import Indexes

MIN_MEMBERS = 3  # per label; with fewer, the samples are too similar for a useful interval


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger replaces the champion, and why.

    Attributes:
        reasons: texts; the first is the decisive one.
        gain: balanced accuracy of the challenger minus the champion's, -1..1, with the interval `gain_low` to
            `gain_high`. None when there is no champion.
        class_gains: label -> gain in recall; negative is a loss.
        n_photos: number of photos that both were evaluated on.
    """

    promoted: bool
    reasons: tuple[str, ...]
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    class_gains: dict[str, float] | None = None
    n_photos: int = 0

    def as_json(self) -> dict[str, Any]:
        """The verdict as a dict of JSON values."""
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
    """Compare a challenger with the champion.

    Args:
        champion: (n,) the class indexes that it predicts for the holdout; k for a label that is not in `labels`, and
            for a photo that it would not answer, as it is unlike all that it learned from.
        challenger: (n,) the same for the challenger.
        class_indexes: (n,) true classes.
        groups: (n,) the member of each photo.
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
    objections = [f"not clearly better: balanced accuracy changes by {interval}"] if low <= 0 else []
    n_members = (tables.sum(axis=(2, 3)) > 0).sum(axis=0)
    objections += [
        f"too few members of {label} in the holdout: {n}, at least {MIN_MEMBERS} are needed"
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
    """Gain in recall: (n, k, 2, k + 1) confusion matrices of both -> (n, k)."""
    return recalls(confusion[:, :, 1]) - recalls(confusion[:, :, 0])
