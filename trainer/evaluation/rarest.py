"""Compares the label with the fewest training photos with the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from trainer.evaluation.evaluate import Report

FAR_BELOW = 0.15  # difference in recall from which more photos are recommended


@dataclass(frozen=True, slots=True)
class Rarest:
    """The rarest label.

    Attributes:
        n_photos: its training photos.
        n_next: training photos of the next rarest label.
        recall: on the holdout, 0..1.
        others: mean recall of the labels with more photos.
    """

    label: str
    n_photos: int
    n_next: int
    recall: float
    others: float

    def describe(self) -> str:
        """In one sentence, with advice if its recall is far below the others'."""
        points = round(100 * (self.others - self.recall))
        lies = f"{points} points below" if points > 0 else f"{-points} points above" if points else "level with"
        text = f"The rarest label, {self.label} ({self.n_photos:,} training photos), lies {lies} the others."
        if self.others - self.recall > FAR_BELOW:
            text += (
                f" {self.n_next - self.n_photos:,} more photos of it, as many as the next label has, would help most."
            )
        return text


def rarest(report: Report, n_photos: Mapping[str, int]) -> Rarest | None:
    """The rarest label, of several the worst one; None if no label is rarer than others, or the holdout has none of it.

    Args:
        n_photos: training photos by label.
    """
    n_fewest = min(n_photos.values())
    recalls = {each.label: each.recall.value for each in report.classes if each.recall.value is not None}
    fewest = [(recall, label) for label, recall in recalls.items() if n_photos[label] == n_fewest]
    others = [recall for label, recall in recalls.items() if n_photos[label] > n_fewest]
    if not fewest or not others:
        return None
    recall, label = min(fewest)
    return Rarest(label, n_fewest, min(n for n in n_photos.values() if n > n_fewest), recall, mean(others))
