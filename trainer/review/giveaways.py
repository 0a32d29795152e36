"""What a photo's darkness, size, frame or camera gives away about its label.

A label that can be told by such things alone is told by them: a head then learns the camera, not the costume.
cleanlab's Datalab and CleanVision look for the like, but need the Hugging Face datasets library, or open files of
strangers themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.review.statistics import NAMES
from trainer.review.suspects import Examined
from trainer.review.words import Words

FEW_MEMBERS = 8  # a label with fewer proves nothing
TELLING = 0.8  # AUROC of one figure, by member
SURE = 0.001  # p-value, after Bonferroni's correction
IN_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "contrasty"),
    "saturation": ("greyer", "colourful"),
    "sharpness": ("softer", "sharper"),
    "detail": ("plainer", "busier"),
    "flat": ("grainier", "smoother"),
    "paper": ("less_white", "more_white"),
    "strokes": ("fewer_lines", "more_lines"),
    "edge": ("frame", "watermark"),
    "width": ("narrower", "wider"),
    "height": ("lower", "higher"),
    "shape": ("taller_shape", "wider_shape"),
}


@dataclass(frozen=True, eq=False)
class _ByMember:
    """A row for each member: m members, f figures.

    Attributes:
        figures: (m, f) means over the member's photos.
        names: of the figures.
        labels: (m,) of the members.
        cameras: the cameras of each member's photos, unknown ones left out.
    """

    figures: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    cameras: tuple[frozenset[str], ...]


def find_giveaways(examined: Examined) -> list[Words]:
    """What tells a label from the others without a look at the costume, the plainest first; members count once each."""
    members = _by_member(examined)
    found: list[tuple[float, Words]] = []
    for label in examined.dataset.labels:
        own = members.labels == label
        if min(own.sum(), (~own).sum()) >= FEW_MEMBERS:
            found += _telling_figures(label, own, members, len(examined.dataset.labels))
            found += _telling_cameras(label, own, members, len(examined.dataset.labels))
    return [words for _, words in sorted(found, key=lambda each: -each[0])]


def _telling_figures(label: str, own: np.ndarray, members: _ByMember, n_labels: int) -> Iterator[tuple[float, Words]]:
    from scipy.stats import mannwhitneyu

    for column, name in enumerate(members.names):
        test = mannwhitneyu(members.figures[own, column], members.figures[~own, column])
        auroc = float(test.statistic) / (own.sum() * (~own).sum())
        share = max(auroc, 1 - auroc)
        if share >= TELLING and test.pvalue * len(members.names) * n_labels < SURE:
            how = Words(IN_WORDS[name][int(auroc > 0.5)])
            yield share, Words("giveaway", {"label": label, "how": how, "share": share})


def _telling_cameras(label: str, own: np.ndarray, members: _ByMember, n_labels: int) -> Iterator[tuple[float, Words]]:
    """Cameras that most members with a known camera of a label have, and few of the others; both groups are known."""
    from scipy.stats import fisher_exact

    is_known = np.array([bool(each) for each in members.cameras])
    cameras = sorted(frozenset().union(*members.cameras))
    inside, outside = own & is_known, ~own & is_known
    if min(inside.sum(), outside.sum()) < FEW_MEMBERS:
        return
    for camera in cameras:
        has = np.array([camera in each for each in members.cameras])
        n_in, n_out = int(has[inside].sum()), int(has[outside].sum())
        share, other = n_in / inside.sum(), n_out / outside.sum()
        table = [[n_in, inside.sum() - n_in], [n_out, outside.sum() - n_out]]
        told = (1 + share - other) / 2  # AUROC of having it
        if told >= TELLING and fisher_exact(table).pvalue * len(cameras) * n_labels < SURE:
            yield told, Words("camera", {"label": label, "share": share, "camera": camera, "other": other})


def _by_member(examined: Examined) -> _ByMember:
    figures, names = _figures(examined)
    members = examined.members
    labels = np.array([item.label for item in examined.dataset.items])
    used = np.array([examined.cameras.get(photo.sha256, "") for photo in examined.used])
    means, of_member, their_cameras = [], [], []
    for member in np.unique(members):
        rows = members == member
        means.append(figures[rows].mean(axis=0))
        of_member.append(labels[rows][0])
        their_cameras.append(frozenset(used[rows].tolist()) - {""})
    return _ByMember(np.array(means), names, np.array(of_member), tuple(their_cameras))


def _figures(examined: Examined) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, m) figures of the used photos, and their names."""
    unknown = np.zeros(len(NAMES), dtype=np.float32)
    pixels = np.stack([examined.statistics.get(photo.sha256, unknown)[: len(NAMES)] for photo in examined.used])
    sizes = np.array([(photo.width, photo.height, photo.width / photo.height) for photo in examined.used])
    return np.concatenate([pixels, sizes], axis=1), (*NAMES, "width", "height", "shape")
