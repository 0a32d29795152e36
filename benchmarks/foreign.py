"""Whether pictures of another kind are told from those that were learned: `--pictures FOLDER`.

The folder has the sub-folders `drawings` and `photos`, each with a sub-folder of pictures for each label. Each draw
makes other splits of both. Far kinds: drawings are learned and all photos are foreign, and the other way round.
Neighbouring kinds: one label of a set is learned alone, and each other label of the same set is foreign.

The AUROC is that of the distances of foreign pictures and of the learned labels' holdout. VGG16 has ImageNet's weights,
unless `--weights` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks import pictures as collection
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import describe_weights, with_photos
from trainer.head.head import Floats, Indexes
from trainer.head.novelty import Novelty
from trainer.photos.dataset import SPLITS, Split
from trainer.training.training_data import class_indexes

N_DRAWS, N_QUICK = 10, 2
KINDS = ("drawings", "photos")


@dataclass(frozen=True, eq=False)
class Kind:
    """One draw of a set: features (n, d) and class indexes (n,) of each split."""

    labels: tuple[str, ...]
    layers: tuple[str, ...]
    splits: Mapping[Split, tuple[Floats, Indexes]]

    @property
    def features(self) -> Floats:
        """Those of all splits."""
        return np.concatenate([features for features, _ in self.splits.values()])


@dataclass(frozen=True, slots=True)
class Told:
    """How foreign pictures are told from own ones.

    Attributes:
        auroc: of the distances.
        own_refused, foreign_refused: shares beyond the limit, of the own holdout and of the foreign pictures.
    """

    auroc: float
    own_refused: float
    foreign_refused: float


def run(
    *,
    quick: bool,
    work_dir: Path,
    say: Callable[[str], None],
    pictures: Path | None = None,
    weights: str | None = None,
) -> Result:
    """Take the figures.

    Args:
        quick: fewer draws.
        work_dir: an empty folder; the data folders are made in it.
        say: shows a line of progress.
        pictures: a folder with the sub-folders `drawings` and `photos`.
        weights: as `features.weights`; None: ImageNet's.
    """
    folder, weights = collection.folder_of(pictures), weights or collection.real_weights()
    draw = {kind: _opened(collection.folder_of(folder / kind), weights, work_dir / kind, say) for kind in KINDS}
    figures: dict[str, Figure] = {"weights": describe_weights(weights)}
    figures |= measure(draw, n_draws=N_QUICK if quick else N_DRAWS, say=say)
    goals = (
        Goal("far_auroc_lowest", at_least=0.99),
        Goal("neighbours_auroc", at_least=0.95),
        Goal("own_refused", at_most=0.07),
    )
    return Result(figures, goals)


def measure(draw: dict[str, Callable[[int], Kind]], *, n_draws: int, say: Callable[[str], None]) -> dict[str, Figure]:
    """The figures over all draws.

    Args:
        draw: makes a draw of each kind.
    """
    far: dict[str, list[Told]] = {kind: [] for kind in KINDS}
    near: dict[str, list[Told]] = {}
    n_pictures = {}
    for number in range(n_draws):
        say(f"draw {number + 1} of {n_draws}")
        drawn = {kind: draw[kind](number) for kind in KINDS}
        for kind, other in zip(KINDS, reversed(KINDS), strict=True):
            n_pictures[kind] = len(drawn[kind].features)
            far[kind].append(tell(drawn[kind], drawn[other].features))
            for own, label in enumerate(drawn[kind].labels):
                alone = only(drawn[kind], own)
                for index, foreign in enumerate(drawn[kind].labels):
                    if index != own:
                        told = tell(alone, only(drawn[kind], index).features)
                        near.setdefault(f"{label}_learned_{foreign}_foreign", []).append(told)
    neighbours = {name: mean(told.auroc for told in each) for name, each in near.items()}
    flat = [told for each in far.values() for told in each]
    return {
        "draws": n_draws,
        **n_pictures,
        **{f"{kind}_learned_auroc": mean(told.auroc for told in far[kind]) for kind in KINDS},
        "far_auroc_lowest": min(told.auroc for told in flat),
        "far_refused": mean(told.foreign_refused for told in flat),
        "own_refused": mean(told.own_refused for told in flat),
        "own_refused_highest": max(mean(told.own_refused for told in far[kind]) for kind in KINDS),
        **{f"{name}_auroc": auroc for name, auroc in neighbours.items()},
        "neighbours_auroc": mean(neighbours.values()),
        "neighbours_auroc_lowest": min(neighbours.values()),
        "neighbours_refused": mean(told.foreign_refused for each in near.values() for told in each),
    }


def _opened(pictures: Path, weights: str, data_dir: Path, say: Callable[[str], None]) -> Callable[[int], Kind]:
    settings, photos, data = collection.gather_pictures(pictures, weights, data_dir, say)

    def draw(number: int) -> Kind:
        drawn = with_photos(data, collection.split(photos, number), settings)
        items = {split: drawn.dataset.split(split) for split in SPLITS}
        view = settings.views[:1]
        splits = {split: (drawn.features(own, views=view)[:, 0], class_indexes(own)) for split, own in items.items()}
        return Kind(drawn.dataset.labels, data.backbone.layers, splits)

    return draw


def only(kind: Kind, index: int) -> Kind:
    """One label of a set."""
    splits = {
        split: (rows[indexes == index], indexes[indexes == index]) for split, (rows, indexes) in kind.splits.items()
    }
    return Kind(kind.labels, kind.layers, splits)


def tell(kind: Kind, foreign: Floats) -> Told:
    """Foreign features (m, d) beside the holdout's."""
    from sklearn.metrics import roc_auc_score

    (learned, _), (validation, _), (holdout, _) = (kind.splits[split] for split in ("train", "validation", "holdout"))
    novelty = Novelty.fit(learned, validation, layers=kind.layers)
    distances = novelty.distances(np.concatenate([holdout, foreign]))
    is_foreign = np.arange(len(distances)) >= len(holdout)
    refused = distances > novelty.limit
    return Told(
        float(roc_auc_score(is_foreign, distances)),
        float(refused[~is_foreign].mean()),
        float(refused[is_foreign].mean()),
    )
