"""Nearest photos in feature space: for hidden reposts, and for photos that are like nothing else under their label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.head.head import Floats, Indexes
from trainer.head.novelty import unit_rows
from trainer.vgg16.backbone import feature_columns

CHUNK = 256  # rows compared at a time, to limit memory
N_NEAREST = 8

Numbers = npt.NDArray[np.intp]


def last_block(features: Floats, layers: Sequence[str]) -> Floats:
    """The columns of block5 as logarithms of length one, (n, d); all columns if there is none."""
    parts = [part for layer, part in zip(layers, feature_columns(layers), strict=True) if layer[:6] == "block5"]
    return unit_rows(features[:, parts[0].start : parts[-1].stop] if parts else features)


def nearest(
    rows: Floats, members: Indexes, *, n: int = N_NEAREST, others: Floats | None = None
) -> tuple[Numbers, Floats]:
    """The nearest photos of other members.

    Args:
        rows: (m, d) of length one.
        members: (m,) a number for each member.
        others: (m, d) what the rows are compared with; None: with themselves.

    Returns:
        their rows and cosine distances, (m, n) each, the nearest first; distance 2 where there are fewer.
    """
    others = rows if others is None else others
    n = min(n, len(rows))
    places, distances = np.empty((len(rows), n), dtype=np.intp), np.empty((len(rows), n), dtype=np.float32)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        found = 1 - rows[part] @ others.T
        found[members[part, None] == members] = 2.0
        few = np.argpartition(found, n - 1, axis=1)[:, :n]
        order = np.argsort(np.take_along_axis(found, few, axis=1), axis=1, kind="stable")
        places[part] = np.take_along_axis(few, order, axis=1)
        distances[part] = np.take_along_axis(found, places[part], axis=1)
    return places, distances


def distance_under_label(rows: Floats, members: Indexes, class_indexes: Indexes) -> Floats:
    """(m,) cosine distance of each photo to the eighth nearest of other members with the same label.

    To the last one where a label has fewer.
    """
    distances = np.full(len(rows), 2.0, dtype=np.float32)
    for index in np.unique(class_indexes):
        of_label = np.flatnonzero(class_indexes == index)
        found = nearest(rows[of_label], members[of_label])[1]
        distances[of_label] = np.where(found < 2, found, -1).max(axis=1)
    return np.where(distances < 0, 2.0, distances).astype(np.float32)
