"""Scores of all photos, each from a head that learned from no photo of its member, and labels that they contradict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.config import HeadSettings
from trainer.errors import DatasetError
from trainer.head.calibration import fit_calibration
from trainer.head.fit import fit_head
from trainer.head.head import Floats, Indexes

N_FOLDS = 5
MIN_MEMBERS = 3  # one outside, and two to choose the penalty by


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A photo whose scores contradict its label.

    Attributes:
        row: of the photo.
        other: class index of the label that the scores name.
        own: score of its own label, 0..1.
        score: that of `other`.
    """

    row: int
    other: int
    own: float
    score: float


def score_out_of_fold(
    features: Floats,
    class_indexes: Indexes,
    groups: Sequence[str],
    *,
    labels: Sequence[str],
    settings: HeadSettings,
    progress: Callable[[int, int], None],
) -> Floats:
    """Calibrated scores (n, k); the photos of a member are all in one fold.

    Args:
        features: (n, d), in the view used for prediction.
        groups: (n,) members.

    Raises:
        DatasetError: a label has fewer than three members.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    members = np.unique(np.asarray(groups), return_inverse=True)[1]
    n_members = {label: len(np.unique(members[class_indexes == at])) for at, label in enumerate(labels)}
    few = [label for label, n in n_members.items() if n < MIN_MEMBERS]
    if few:
        raise DatasetError(f"needs photos of {MIN_MEMBERS} members of each label; fewer has {', '.join(few)}")
    n_folds = min(N_FOLDS, *n_members.values())
    logits = np.zeros((len(features), len(labels)), dtype=np.float32)
    plain = settings.model_copy(update={"hidden_units": 0, "fine_tune": "none"})
    none = np.zeros((0, features.shape[1]), dtype=np.float32)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    for done, (inside, outside) in enumerate(splitter.split(features, class_indexes, members), start=1):
        fitted = fit_head(
            features[inside][:, None],
            class_indexes[inside],
            validation_features=none,  # the penalty is chosen by cross-validation inside
            validation_class_indexes=np.zeros(0, dtype=np.int64),
            labels=labels,
            settings=plain,
            groups=[groups[at] for at in inside],
        )
        logits[outside] = fitted.head.logits(features[outside])
        progress(done, n_folds)
    return fitted.head.calibrated(fit_calibration(logits, class_indexes)).calibrated_scores(logits)


def find_contradictions(scores: Floats, class_indexes: Indexes) -> list[Contradiction]:
    """The photos whose label is probably wrong, the surest first.

    Source: Northcutt et al., "Confident Learning", arXiv:1911.00068, as in cleanlab.
    """
    from cleanlab.filter import find_label_issues

    found: npt.NDArray[np.int64] = find_label_issues(
        class_indexes,
        scores.astype(np.float64) / scores.sum(axis=1, keepdims=True, dtype=np.float64),
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    best = scores.argmax(axis=1)
    return [
        Contradiction(row, int(best[row]), float(scores[row, class_indexes[row]]), float(scores[row, best[row]]))
        for row in found.tolist()
        if best[row] != class_indexes[row]
    ]
