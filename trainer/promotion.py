"""Champion and challenger on the same photos -> a verdict. Pure.

Both answer today's holdout; members are drawn again and again, and in each draw both are judged on the same members.
The challenger takes over only if it is better in all but the few draws that `evaluate.confidence` allows, and if no
class loses more than `evaluate.max_class_loss`. So two versions that are equally good change places by chance one time
in twenty at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import EvaluateSettings
from trainer.evaluate import member_tables, recalls, resample

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger takes over, and why.

    Attributes:
        reasons: sentences; the first is the decisive one.
        gain: balanced accuracy of the challenger less the champion's; `gain_low` is what it is at least, with the
            configured confidence. None where there was no champion to compare with.
        class_gains: label -> recall gained, below 0 where it was lost.
    """

    promoted: bool
    reasons: tuple[str, ...]
    gain: float | None = None
    gain_low: float | None = None
    class_gains: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(
    champion: Floats,
    challenger: Floats,
    class_indexes: Indexes,
    groups: Sequence[str],
    *,
    labels: Sequence[str],
    settings: EvaluateSettings,
) -> Verdict:
    """Judge a challenger.

    Args:
        champion: (n, k) its scores of the holdout's photos.
        challenger: (n, k) those of the other, same photos, same labels.
        class_indexes: (n,) what the photos are.
        groups: (n,) whose they are.
        labels: k names.
    """
    tables = np.stack(
        [
            member_tables(class_indexes, scores.argmax(axis=1), groups, n_classes=len(labels))
            for scores in (champion, challenger)
        ],
        axis=2,
    )  # (members, true label, champion or challenger, answer)
    samples = resample(tables, n=settings.resamples)
    gains = _class_gains(tables.sum(axis=0)[None].astype(np.float64))[0]
    gain = float(np.nanmean(gains))
    gain_low = float(np.quantile(np.nanmean(_class_gains(samples), axis=1), 1 - settings.confidence))
    class_gains = {label: float(value) for label, value in zip(labels, gains, strict=True) if not np.isnan(value)}
    lost = {label: -value for label, value in class_gains.items() if -value > settings.max_class_loss}
    reasons = []
    if gain_low <= 0:
        reasons.append(
            f"balanced accuracy changes by {100 * gain:+.1f} points, with {settings.confidence:.0%} confidence by no "
            f"less than {100 * gain_low:+.1f}: not surely better"
        )
    reasons += [
        f"{label} loses {100 * loss:.1f} points of recall, more than {100 * settings.max_class_loss:.1f}"
        for label, loss in lost.items()
    ]
    promoted = not reasons
    if promoted:
        reasons.append(
            f"balanced accuracy rises by {100 * gain:.1f} points, with {settings.confidence:.0%} confidence by "
            f"{100 * gain_low:.1f} at least, and no class loses more than {100 * settings.max_class_loss:.1f}"
        )
    return Verdict(promoted, tuple(reasons), gain, gain_low, class_gains)


def _class_gains(confusion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, k, 2, k) confusion matrices of both -> (n, k) recall gained."""
    return recalls(confusion[:, :, 1]) - recalls(confusion[:, :, 0])
