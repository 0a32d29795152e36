"""How many planted faults `python -m trainer review` finds, and what training without them is worth.

The photos are the sandbox gallery's drawings, or `--pictures FOLDER`, as for the benchmark `real`. Of them, 10% get
another label, 3% are replaced by pictures of another kind, 2% by blank ones, and 5% are added as reposts by other
members: mirrored, framed or cropped. All suspects that suggest something are then taken out or relabelled, as a person
would who trusts the list, in training and validation. All three heads (learned from clean photos, with the faults, and
after the review) are judged by the same holdout photos: those without a fault. A repost counts as found if either photo
of the pair is listed as one.

VGG16 has ImageNet's weights, unless `--weights` says otherwise.
"""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from benchmarks.pictures import gather_pictures, real_weights, split
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import Silent, describe_weights, scraped_studio
from trainer.config import Settings
from trainer.photos.decode import Decoder
from trainer.photos.duplicates import perceptual_hash
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.review.suspects import Suspect, find_suspects
from trainer.training.fitting import fit_and_evaluate
from trainer.training.training_data import TrainingData, read_photos, sort_photos

SHARES = {"label": 0.10, "foreign": 0.03, "blank": 0.02, "repost": 0.05}
PHOTOS_PER_LABEL, QUICK_PER_LABEL = 200, 40
N_DRAWS = 3
SIDE_PX = 300


@dataclass(frozen=True)
class _Planted:
    """The faults that were planted: SHA-256 -> kind."""

    faults: dict[str, str]


def run(
    *,
    quick: bool,
    work_dir: Path,
    say: Callable[[str], None],
    pictures: Path | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> Result:
    """Run the benchmark.

    Args:
        quick: fewer photos, one draw.
        work_dir: an empty folder.
        say: shows a line of progress.
        pictures: a folder with a sub-folder for each label; None: the sandbox's drawings.
        weights: as `features.weights`; None: ImageNet's.
        seed: of the first draw.
    """
    weights = weights or real_weights()
    draws = [
        _draw(number, work_dir / str(number), quick, pictures, weights, say)
        for number in range(seed, seed + (1 if quick else N_DRAWS))
    ]
    figures: dict[str, Figure] = {name: mean(draw[name] for draw in draws) for name in draws[0]}
    figures |= {"draws": len(draws), "weights": describe_weights(weights)}
    goals = (
        Goal("found", at_least=0.8),
        Goal("precision", at_least=0.7),
        Goal("points_lost_after_review", at_most=2.0),
    )
    return Result(figures=figures, goals=goals)


def _draw(
    number: int, data_dir: Path, quick: bool, pictures: Path | None, weights: str, say: Callable[[str], None]
) -> dict[str, float]:
    rng = random.Random(number)
    settings = _gather(data_dir, quick, pictures, weights, number, say)
    before = read_photos(settings)
    planted = _plant(settings, rng)
    after = read_photos(settings)
    find_suspects(settings, Silent())  # computes what is missing
    started = time.perf_counter()
    review = find_suspects(settings, Silent())
    took_s = time.perf_counter() - started
    suspects = review.suspects
    right = [each for each in suspects if _is_right(each, planted)]
    found = {each.photo.sha256 for each in right} & planted.faults.keys()
    found |= {other.sha256 for each in right if each.kind == "repost" for other in each.neighbours}
    for kind in (*SHARES,):
        of_kind = [sha256 for sha256, fault in planted.faults.items() if fault == kind]
        say(f"draw {number}: {kind}: {sum(sha256 in found for sha256 in of_kind)} of {len(of_kind)}")
    wrong = [each for each in suspects if not _is_right(each, planted)]
    say(
        f"draw {number}: wrongly: "
        + ", ".join(f"{kind} {sum(e.kind == kind for e in wrong)}" for kind in sorted({e.kind for e in wrong}))
    )
    by_suspicion = {each.photo.sha256: each for each in suspects}
    held_out = _holdout(settings, after)
    settled = [
        kept for photo in after if (kept := photo if photo.sha256 in held_out else _settled(photo, by_suspicion))
    ]
    judges = _holdout(settings, before) & held_out & _holdout(settings, settled) - planted.faults.keys()
    clean, dirty, cleaned = (_balanced_accuracy(settings, photos, judges) for photos in (before, after, settled))
    n_found = {
        kind: sum(sha256 in found for sha256, fault in planted.faults.items() if fault == kind) for kind in SHARES
    }
    n_planted = Counter(planted.faults.values())
    return {
        "photos": len(review.examined.photos),
        "planted": len(planted.faults),
        "found": sum(n_found.values()) / len(planted.faults),
        **{f"{kind}_found": n_found[kind] / n_planted[kind] for kind in SHARES},
        "precision": len(right) / max(len(suspects), 1),
        "sure": sum(each.is_sure for each in suspects),
        "precision_of_sure": mean([_is_right(each, planted) for each in suspects if each.is_sure] or [1.0]),
        "judged_by": len(judges),
        "clean_balanced_accuracy": clean,
        "dirty_balanced_accuracy": dirty,
        "reviewed_balanced_accuracy": cleaned,
        "points_lost_after_review": 100 * (clean - cleaned),
        "seconds_with_features": took_s,
    }


def _gather(
    data_dir: Path, quick: bool, pictures: Path | None, weights: str, number: int, say: Callable[[str], None]
) -> Settings:
    if pictures is not None:
        settings, photos, _ = gather_pictures(pictures, weights, data_dir, say)
        with Manifest(settings.data_dir / FILE_NAME) as manifest:  # with the splits of this draw
            for photo in list(manifest.photos()):
                manifest.remove(photo)
            for photo in split(photos, number):
                manifest.add(photo)
        return settings
    n_photos = QUICK_PER_LABEL if quick else PHOTOS_PER_LABEL
    with scraped_studio(data_dir, photos_per_label=n_photos, say=say, weights=weights) as place:
        return place.settings()


def _is_right(suspect: Suspect, planted: _Planted) -> bool:
    """Whether a suspect is a planted fault, or the original of a planted repost."""
    if suspect.photo.sha256 in planted.faults:
        return True
    return suspect.kind == "repost" and any(
        planted.faults.get(other.sha256) == "repost" for other in suspect.neighbours
    )


def _holdout(settings: Settings, photos: Sequence[Photo]) -> frozenset[str]:
    """SHA-256 of the holdout's photos."""
    return frozenset(item.sha256 for item in sort_photos(photos, settings).items if item.split == "holdout")


def _balanced_accuracy(settings: Settings, photos: Sequence[Photo], judges: frozenset[str]) -> float:
    """Of a head that learned from these photos, on the holdout photos `judges`."""
    data = TrainingData.gather(settings, Silent(), photos=photos)
    items = tuple(item for item in data.dataset.items if item.split != "holdout" or item.sha256 in judges)
    data = replace(data, dataset=replace(data.dataset, items=items))
    return float(fit_and_evaluate(data, settings, Silent()).report.balanced_accuracy.value or 0.0)


def _settled(photo: Photo, suspects: dict[str, Suspect]) -> Photo | None:
    """A photo as a person leaves it who trusts the list; None: taken out."""
    suspect = suspects.get(photo.sha256)
    if suspect is None or suspect.suggested is None:
        return photo
    return replace(photo, label=suspect.label) if suspect.label else None


def _plant(settings: Settings, rng: random.Random) -> _Planted:
    photos = read_photos(settings)
    labels = sorted({photo.label for photo in photos})
    order = iter(rng.sample(photos, len(photos)))
    faults: dict[str, str] = {}
    with (
        Manifest(settings.data_dir / FILE_NAME) as manifest,
        closing(Decoder.in_bulk(settings.images, n_children=1)) as decoder,
    ):
        for kind in ("label", "foreign", "blank", "repost"):
            for number in range(round(SHARES[kind] * len(photos))):
                photo = next(order)
                if kind == "label":
                    manifest.replace(photo, replace(photo, label=rng.choice([x for x in labels if x != photo.label])))
                    faults[photo.sha256] = kind
                    continue
                image = Image.open(settings.data_dir / photo.path).convert("RGB")
                made = {"foreign": _foreign, "blank": _blank, "repost": _repost}[kind](image, rng)
                new = _file(made, photo, f"{kind}{number}", settings, decoder)
                if kind == "repost":
                    others = [
                        each for each in photos if each.label == photo.label and each.member_id != photo.member_id
                    ]
                    manifest.add(replace(new, member_id=rng.choice(others).member_id if photo.member_id else None))
                else:
                    manifest.replace(photo, replace(new, photo_id=photo.photo_id))
                faults[new.sha256] = kind
    return _Planted(faults)


def _file(image: Image.Image, like: Photo, name: str, settings: Settings, decoder: Decoder) -> Photo:
    """A photo like another one, with another picture; its file is written."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    data = file.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    path = Path("images", like.label, f"{sha256}.jpeg")
    (settings.data_dir / path).parent.mkdir(parents=True, exist_ok=True)
    (settings.data_dir / path).write_bytes(data)
    measured = decoder.measure(data)
    return replace(
        like,
        sha256=sha256,
        photo_id=name,
        image_url=f"https://images.example/{name}",
        path=path,
        n_bytes=len(data),
        width=measured.width,
        height=measured.height,
        phash=perceptual_hash(measured.brightness),
    )


def _blank(image: Image.Image, rng: random.Random) -> Image.Image:
    """One colour, with the noise of a sensor."""
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 1.5, (*image.size[::-1], 3))
    colour = np.array([rng.randrange(256) for _ in range(3)])
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def _foreign(image: Image.Image, rng: random.Random) -> Image.Image:
    """Diagrams: discs, bars and lines on paper, as no gallery has them."""
    made = Image.new("RGB", image.size, tuple(rng.randrange(180, 256) for _ in range(3)))
    draw = ImageDraw.Draw(made)
    width, height = made.size
    for _ in range(rng.randrange(6, 20)):
        left, top = rng.randrange(width), rng.randrange(height)
        box = (left, top, left + rng.randrange(10, width), top + rng.randrange(4, height // 3))
        colour = tuple(rng.randrange(256) for _ in range(3))
        shape = rng.choice((draw.rectangle, draw.ellipse))
        shape(box, fill=colour)
    return made


def _repost(image: Image.Image, rng: random.Random) -> Image.Image:
    """Mirrored, framed or cropped, and some of it at once."""
    width, height = image.size
    how = rng.randrange(1, 8)
    if how & 1:
        image = ImageOps.mirror(image)
    if how & 2:
        cut = [rng.uniform(0, 0.1) for _ in range(4)]
        image = image.crop((cut[0] * width, cut[1] * height, (1 - cut[2]) * width, (1 - cut[3]) * height))
    if how & 4:
        image = ImageOps.expand(
            image, round(rng.uniform(0.02, 0.06) * width), tuple(rng.randrange(256) for _ in range(3))
        )
    return image
