"""How well the heat map shows what counted: `--pictures FOLDER --weights PATH`, as for the benchmark `real`.

The fifth of a picture that the heat map shows as most important is blurred, and the score of the answer falls. It must
fall more than with the heat map of the last layer alone, and far more than with a random fifth, of places that hang
together as in a heat map. Each picture is explained by a head that did not learn from it.

Source of the method: Samek et al., "Evaluating the visualization of what a deep neural network has learned",
arXiv:1509.06321.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.pictures import folder_of, gather_pictures, real_weights, split
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, with_photos
from trainer.head.evidence import evidence, evidence_by_layer, spread
from trainer.head.head import Floats, Head
from trainer.photos.decode import Decoder
from trainer.training.fitting import fit_and_evaluate
from trainer.vgg16.backbone import Extractor, Pixels

N_PICTURES, N_QUICK = 200, 12
N_DRAWS = 10  # at most
BATCH = 4
SHARE = 0.2  # of the picture that is blurred
BLUR_PX = 10  # standard deviation
COARSE = 14  # cells of a random map along each side


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
        quick: a few pictures.
        work_dir: an empty folder; the data folder is made in it.
        say: shows a line of progress.
        pictures: a folder with a sub-folder for each label.
        weights: as `features.weights`; None: ImageNet's.
    """
    weights = weights or real_weights()
    settings, photos, data = gather_pictures(folder_of(pictures), weights, work_dir / "data", say)
    wanted = min(N_QUICK if quick else N_PICTURES, len(photos))
    rng = np.random.default_rng(0)
    view, seen, falls = settings.views[0], set[str](), []
    with closing(Decoder.in_bulk(settings.images)) as decoder:
        for draw in range(N_DRAWS):
            drawn = with_photos(data, split(photos, draw), settings)
            head = fit_and_evaluate(drawn, settings, Silent()).head
            fresh = [item for item in drawn.dataset.split("holdout") if item.sha256 not in seen][: wanted - len(seen)]
            seen |= {item.sha256 for item in fresh}
            for start in range(0, len(fresh), BATCH):
                files = [item.path.read_bytes() for item in fresh[start : start + BATCH]]
                images = np.concatenate([decoder.views(file, [view], side_px=data.backbone.side_px) for file in files])
                falls.append(falls_of(images, head, data.backbone, rng))
            say(f"{len(seen)} of {wanted} pictures")
            if len(seen) == wanted:
                break
    return _result({kind: np.concatenate([each[kind] for each in falls]) for kind in falls[0]}, weights)


def _result(found: dict[str, Floats], weights: str) -> Result:
    more = found["all_layers"] - found["last_layer"]
    figures: dict[str, Figure] = {
        "weights": describe_weights(weights),
        "pictures": len(more),
        "share_blurred": SHARE,
        "score": float(found["score"].mean()),
        **{f"{kind}_fall": float(falls.mean()) for kind, falls in found.items() if kind != "score"},
        "fall_beyond_last_layer": float(more.mean()),
        "fall_beyond_last_layer_standard_error": float(more.std() / np.sqrt(len(more))),
        "times_random": float(found["all_layers"].mean() / max(found["random"].mean(), 1e-9)),
    }
    return Result(figures, (Goal("fall_beyond_last_layer", at_least=0.02), Goal("times_random", at_least=2)))


def falls_of(images: Pixels, head: Head, backbone: Extractor, rng: np.random.Generator) -> dict[str, Floats]:
    """The score of each image's answer, and how far it falls when what each kind of map shows is blurred."""
    extracted = backbone.extract(images, batch_size=BATCH, with_maps=True)
    scores = head.scores(extracted.features)
    answers = scores.argmax(axis=1)[:, None]
    score = np.take_along_axis(scores, answers, axis=1)[:, 0]
    noise = rng.random((len(images), COARSE, COARSE), dtype=np.float32)
    wide = spread(COARSE, 4 * COARSE)
    maps: dict[str, Floats] = {
        "all_layers": evidence(head, extracted),
        "last_layer": evidence_by_layer(head, extracted)[-1],
        "random": (wide @ noise @ wide.T).astype(np.float32),
    }
    found = {"score": score}
    for kind, heatmaps in maps.items():
        blurred = np.stack([_blur(image, heatmap) for image, heatmap in zip(images, heatmaps, strict=True)])
        after = head.scores(backbone.extract(blurred, batch_size=BATCH).features)
        found[kind] = score - np.take_along_axis(after, answers, axis=1)[:, 0]
    return found


def _blur(image: Pixels, heatmap: Floats) -> Pixels:
    """The image with the hottest places blurred."""
    side_px = len(image)
    shown = np.asarray(Image.fromarray(heatmap).resize((side_px, side_px), Image.Resampling.BICUBIC))
    hottest = np.argsort(-shown, axis=None, kind="stable")[: round(SHARE * shown.size)]
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(BLUR_PX)))
    out = image.copy()
    out.reshape(-1, 3)[hottest] = blurred.reshape(-1, 3)[hottest]
    return out
