"""What a crop to the figure does to accuracy, heat maps, time and memory: `--pictures FOLDER`.

The folder has a sub-folder of photos for each label; or the folders `people`, `places` and `things`, from which scenes
are composed (`benchmarks.scenes`). Then it is measured twice: with the things that a person holds as labels, and with
the places behind. VGG16 has ImageNet's weights, unless `--weights` says otherwise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.heat import falls_of
from benchmarks.pictures import folder_of, gather_pictures, real_weights, split
from benchmarks.result import Figure, Goal, Result
from benchmarks.scenes import compose
from benchmarks.studio import Silent, describe_weights
from tests.verdict import peak_mib
from trainer.config import FIGURE, ImageSettings, Settings
from trainer.head.evidence import evidence, heat
from trainer.head.head import Head
from trainer.photos.decode import Decoder
from trainer.photos.manifest import Photo
from trainer.photos.views import WHOLE, Box, Pixels, view_box
from trainer.training.figures import Cropped, load_counts
from trainer.training.fitting import fit_and_evaluate
from trainer.training.training_data import TrainingData, sort_photos

N_SCENES, N_SCENES_QUICK = 160, 60
N_DRAWS, N_DRAWS_QUICK = 10, 2
N_TIMED, N_TIMED_QUICK = 60, 8
N_HEATED, N_HEATED_QUICK = 24, 8
COMPOSED = ("people", "places", "things")


@dataclass(frozen=True, eq=False)
class Side:
    """The same photos, whole or cropped."""

    name: str
    settings: Settings
    data: TrainingData


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
        quick: few scenes and draws.
        work_dir: an empty folder; scenes and the data folder are made in it.
        say: shows a line of progress.
        pictures: as in the module's docstring.
        weights: as `features.weights`; None: ImageNet's.
    """
    folder, weights = folder_of(pictures), weights or real_weights()
    places: Mapping[str, str] = {}
    if all((folder / name).is_dir() for name in COMPOSED):
        scenes = compose(folder, work_dir / "scenes", n=N_SCENES_QUICK if quick else N_SCENES)
        folder, places = scenes.folder, scenes.places
    settings, photos, data = gather_pictures(
        folder, weights, work_dir / "data", say, precision="float32", views=["whole"]
    )
    cropping = settings.model_copy(update={"images": ImageSettings(crop="figure")})
    say("features of figures")
    sides = (Side("whole", settings, data), Side("figure", cropping, TrainingData.gather(cropping, Silent())))
    figures: dict[str, Figure] = {
        "weights": describe_weights(weights),
        "pictures": len(photos),
        **_found(sides[1]),
        **_costs(photos, settings, N_TIMED_QUICK if quick else N_TIMED),
    }
    n_draws, n_heated = (N_DRAWS_QUICK, N_HEATED_QUICK) if quick else (N_DRAWS, N_HEATED)
    kinds = {"things": photos, "places": [replace(photo, label=places[photo.photo_id]) for photo in photos]}
    for kind, labelled in (kinds if places else {"labels": photos}).items():
        say(f"{n_draws} draws of {kind}")
        figures |= {f"{kind}_{name}": figure for name, figure in _accuracies(sides, labelled, n_draws).items()}
        figures |= {f"{kind}_{name}": figure for name, figure in _heat(sides, labelled, n_heated).items()}
    goals = [Goal("more_processor_ms_per_photo", at_most=60), Goal("more_mb_per_decoder", at_most=120)]
    if places:
        goals += [Goal("things_points_gained", at_least=0), Goal("share_whole", at_most=0.1)]
    return Result(figures, tuple(goals))


def _found(side: Side) -> dict[str, Figure]:
    """How many photos stayed whole."""
    items = side.data.dataset.items
    with closing(Decoder.in_bulk(side.settings.images)) as decoder:
        counts = load_counts(items, side.settings, decoder, progress=lambda *_: None)
    return {"share_whole": Cropped.count(items, counts).share_whole}


def _costs(photos: Sequence[Photo], settings: Settings, n: int) -> dict[str, Figure]:
    """Processor time of a decoder for a photo, and the peak memory of a decoder that did this."""
    seconds, memory = [], []
    for view in ("whole", f"{FIGURE}/whole"):
        with Decoder(ImageSettings(crop="none" if view == "whole" else "figure"), n_children=1) as decoder:
            decoder.lacks()
            (process,) = (psutil.Process(pid) for pid in decoder.pids())
            before = process.cpu_times()
            for photo in photos[:n]:
                decoder.prepare((settings.data_dir / photo.path).read_bytes(), view)
            after = process.cpu_times()
            seconds.append(after.user + after.system - before.user - before.system)
            memory.append(1.048576 * peak_mib([process.pid]))
    whole, figure = (1000 * each / min(n, len(photos)) for each in seconds)
    return {
        "whole_processor_ms_per_photo": whole,
        "figure_processor_ms_per_photo": figure,
        "more_processor_ms_per_photo": figure - whole,
        "more_mb_per_decoder": memory[1] - memory[0],
    }


def _accuracies(sides: Sequence[Side], photos: Sequence[Photo], n_draws: int) -> dict[str, Figure]:
    """Mean balanced accuracy on held-out photos, and the points that a crop gains, with its standard error."""
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    for draw in range(n_draws):
        for side in sides:
            trained = fit_and_evaluate(_drawn(side, photos, draw), side.settings, Silent())
            found[side.name].append(trained.report.balanced_accuracy.value or 0.0)
    gained = 100 * (np.array(found["figure"]) - np.array(found["whole"]))
    return {
        **{f"accuracy_{name}": float(np.mean(values)) for name, values in found.items()},
        "points_gained": float(gained.mean()),
        "points_gained_standard_error": float(gained.std(ddof=1) / np.sqrt(n_draws)),
    }


def _heat(sides: Sequence[Side], photos: Sequence[Photo], n: int) -> dict[str, Figure]:
    """How far a score falls without what the heat map shows, and how much of the heat lies on the figure."""
    figures: dict[str, Figure] = {}
    for side in sides:
        drawn, rng = _drawn(side, photos, 0), np.random.default_rng(0)
        head = fit_and_evaluate(drawn, side.settings, Silent()).head
        with closing(Decoder.in_bulk(side.settings.images)) as decoder:
            files = [item.path.read_bytes() for item in drawn.dataset.split("holdout")[:n]]
            side_px = side.data.backbone.side_px
            images = np.stack([decoder.prepare(file, side.settings.views[0], side_px=side_px) for file in files])
            boxes = [decoder.figures(file).box or WHOLE for file in files]
        falls = falls_of(images, head, side.data.backbone, rng)
        figures[f"heat_fall_{side.name}"] = float(falls["all_layers"].mean())
        figures[f"heat_times_random_{side.name}"] = float(
            falls["all_layers"].mean() / max(falls["random"].mean(), 1e-9)
        )
        if side.name == "whole":
            figures |= _heat_on_figure(side, head, images, boxes)
    return figures


def _heat_on_figure(side: Side, head: Head, images: Pixels, boxes: Sequence[Box]) -> dict[str, Figure]:
    """The share of a whole photo's heat that lies where a crop would be, and that part's share of the photo."""
    extracted = side.data.backbone.extract(images, batch_size=4, with_maps=True)
    inside = []
    for heatmap, box in zip(heat(evidence(head, extracted)), boxes, strict=True):
        left, top, right, bottom = view_box((heatmap.shape[1], heatmap.shape[0]), f"{FIGURE}/whole", box)
        inside.append(float(heatmap[top:bottom, left:right].sum() / max(heatmap.sum(), 1e-9)))
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    return {"heat_on_figure": statistics.mean(inside), "figure_share_of_photo": statistics.mean(areas)}


def _drawn(side: Side, photos: Sequence[Photo], draw: int) -> TrainingData:
    labels = {photo.label for photo in photos}
    return replace(side.data, dataset=sort_photos(split(photos, draw), side.settings, labels=labels))
