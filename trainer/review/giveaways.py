"""Who is odd as a whole, and what a photo's darkness, size or frame gives away about its label.

A label that can be told by such things alone is told by them: a head then learns the camera, not the costume.
cleanlab's Datalab and CleanVision look for the like, but need the Hugging Face datasets library, or open files of
strangers themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from trainer.review.statistics import NAMES
from trainer.review.suspects import Examined, Suspect

FEW_PHOTOS = 3  # a member with fewer is not odd as a whole
FEW_MEMBERS = 8  # a label with fewer proves nothing
TELLING = 0.8  # AUROC of one figure, by member
SURE = 0.001  # p-value, after Bonferroni's correction
IN_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "of higher contrast"),
    "saturation": ("greyer", "more colourful"),
    "sharpness": ("softer", "sharper"),
    "detail": ("plainer", "busier"),
    "flat": ("grainier", "smoother"),
    "paper": ("with less white", "with more white"),
    "strokes": ("with fewer fine lines", "with more fine lines"),
    "edge": ("plainer at top and bottom, as with a frame", "busier at top and bottom, as with a watermark"),
    "width": ("narrower in pixels", "wider in pixels"),
    "height": ("less high in pixels", "higher in pixels"),
    "shape": ("taller in proportion", "wider in proportion"),
}


def find_odd_members(examined: Examined, suspects: Sequence[Suspect]) -> list[str]:
    """Members most of whose photos are suspects, in words, the oddest first."""
    suspected = {each.photo.sha256: each for each in suspects}
    photos = defaultdict(list)
    for photo in examined.photos:
        if photo.member_id is not None:
            photos[photo.label, photo.member_id].append(photo)
    odd = []
    for (label, member_id), own in photos.items():
        n = sum(photo.sha256 in suspected for photo in own)
        if len(own) >= FEW_PHOTOS and 2 * n > len(own):
            odd.append((n / len(own), f"member {member_id} of {label}: {n} of {len(own)} photos are suspects"))
    return [words for _, words in sorted(odd, key=lambda each: -each[0])]


def find_giveaways(examined: Examined) -> list[str]:
    """What tells a label from the others without a look at the costume, in words; members count once each."""
    from scipy.stats import mannwhitneyu

    figures, names = _figures(examined)
    labels = np.array([photo.label for photo in examined.used])
    means, of_member = [], []
    for member in np.unique(examined.members):
        rows = examined.members == member
        means.append(figures[rows].mean(axis=0))
        of_member.append(labels[rows][0])
    by_member, owner = np.array(means), np.array(of_member)
    found = []
    for label in examined.dataset.labels:
        own = owner == label
        if min(own.sum(), (~own).sum()) < FEW_MEMBERS:
            continue
        for column, name in enumerate(names):
            test = mannwhitneyu(by_member[own, column], by_member[~own, column])
            auroc = float(test.statistic) / (own.sum() * (~own).sum())
            if max(auroc, 1 - auroc) >= TELLING and test.pvalue * len(names) * len(examined.dataset.labels) < SURE:
                words = IN_WORDS[name][int(auroc > 0.5)]
                found.append(
                    (
                        max(auroc, 1 - auroc),
                        f"photos of {label} are {words} than the others: {max(auroc, 1 - auroc):.0%} of pairs",
                    )
                )
    return [words for _, words in sorted(found, reverse=True)]


def _figures(examined: Examined) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, m) figures of the used photos, and their names."""
    unknown = np.zeros(len(NAMES), dtype=np.float32)
    pixels = np.stack([examined.statistics.get(photo.sha256, unknown)[: len(NAMES)] for photo in examined.used])
    sizes = np.array([(photo.width, photo.height, photo.width / photo.height) for photo in examined.used])
    return np.concatenate([pixels, sizes], axis=1), (*NAMES, "width", "height", "shape")
