"""The head on real pictures beside the recipe of the tutorials at convergence: the same pictures, splits, weights.

`--pictures FOLDER` has a sub-folder of pictures for each label. Each draw makes other splits, as in `real`. The
reference (`benchmarks.reference`) trains block5 and its head on maps of its frozen part until its validation loss has
not fallen for a tenth of its 200 epochs, and keeps its best epoch; what the original does takes a GPU or days. It reads
the pictures as the trainer does, on white where they are transparent: by itself, it takes whatever colour lies there.

VGG16 has ImageNet's weights, unless `--weights` says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from PIL import Image

from benchmarks import pictures as collection
from benchmarks import reference
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, with_photos
from benchmarks.training import run_reference
from trainer.config import ImageSettings
from trainer.photos.dataset import Item
from trainer.photos.images import load_rgb
from trainer.training.fitting import fit_and_evaluate

N_DRAWS = 3


def run(
    *, quick: bool, work_dir: Path, say: Callable[[str], None], pictures: Path | None = None, weights: str | None = None
) -> Result:
    """Take the figures.

    Args:
        quick: one draw, and one epoch of the reference.
        work_dir: an empty folder; the data folder and the reference's pictures are made in it.
        say: shows a line of progress.
        pictures: a folder with a sub-folder for each label.
        weights: as `features.weights`; None: ImageNet's.
    """
    n_draws, epochs = (1, 1) if quick else (N_DRAWS, reference.EPOCHS)
    weights = weights or collection.real_weights()
    gathered = collection.gather_pictures(collection.folder_of(pictures), weights, work_dir / "data", say)
    settings, photos, data = gathered
    ours, ours_s, theirs, theirs_s, theirs_epochs = [], [], [], [], []
    for draw in range(n_draws):
        say(f"draw {draw + 1} of {n_draws}")
        drawn = with_photos(data, collection.split(photos, draw), settings)
        start = time.monotonic()
        trained = fit_and_evaluate(drawn, settings, Silent())
        ours_s.append(time.monotonic() - start)
        ours.append(trained.report.balanced_accuracy.value or 0.0)
        folder = work_dir / f"reference{draw}"
        write_pictures(drawn.dataset.items, folder, settings.images)
        start = time.monotonic()
        ran = run_reference(folder, epochs, weights, ("--from-maps",))
        theirs_s.append(time.monotonic() - start)
        theirs.append(ran["balanced_accuracy"])
        theirs_epochs.append(len(ran["epoch_s"]))
        say(f"balanced accuracy {ours[-1]:.3f}, the reference {theirs[-1]:.3f} after {theirs_epochs[-1]} epochs")
    figures: dict[str, Figure] = {
        "weights": describe_weights(weights),
        "pictures": len(photos),
        "draws": n_draws,
        "balanced_accuracy": mean(ours),
        "reference_balanced_accuracy": mean(theirs),
        "points_above_reference": 100 * (mean(ours) - mean(theirs)),
        "lowest_points_above_reference": 100 * min(one - other for one, other in zip(ours, theirs, strict=True)),
        "head_s": mean(ours_s),
        "reference_s": mean(theirs_s),
        "reference_epochs": mean(theirs_epochs),
    }
    return Result(figures, (Goal("points_above_reference", at_least=0),))


def write_pictures(items: Sequence[Item], folder: Path, limits: ImageSettings) -> None:
    """Write pictures as the trainer sees them, into folders by split and label, for the reference."""
    for item in items:
        place = folder / item.split / item.label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(load_rgb(item.path.read_bytes(), limits)).save(place / f"{item.sha256}.png")
