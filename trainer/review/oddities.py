"""Which members and labels are odd as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from trainer.review.suspects import Examined, Suspect
from trainer.review.words import Words

FEW_PHOTOS = 3  # a member with fewer is not odd as a whole
FEW_MEMBERS = 8  # a label with fewer proves nothing
MOSTLY = 0.5  # of a member's photos
TIMES = 2  # as many suspects as the other labels have
AT_LEAST = 0.1  # of a label's photos
SURE = 0.001  # p-value, after Bonferroni's correction
LOOKS_LIKE = 0.3  # of a label's photos that are taken for one other label


def find_oddities(examined: Examined, suspects: Sequence[Suspect]) -> list[Words]:
    """Labels, then members, that are odd as a whole, the oddest first."""
    return [
        *_odd_labels(examined, suspects),
        *_mixed_labels(examined),
        *_odd_members(examined, suspects),
    ]


def _odd_labels(examined: Examined, suspects: Sequence[Suspect]) -> list[Words]:
    """Labels with many more suspects than the others; members count once each."""
    from scipy.stats import mannwhitneyu

    suspected = {each.photo.sha256 for each in suspects}
    is_suspect = np.array([item.sha256 in suspected for item in examined.dataset.items])
    labels = np.array([item.label for item in examined.dataset.items])
    members = examined.members
    _, first = np.unique(members, return_index=True)
    shares = np.bincount(members, weights=is_suspect) / np.bincount(members)
    found = []
    for label in examined.dataset.labels:
        own, of_label = labels[first] == label, labels == label
        if min(own.sum(), (~own).sum()) < FEW_MEMBERS:
            continue
        share, other = float(is_suspect[of_label].mean()), float(is_suspect[~of_label].mean())
        pvalue = mannwhitneyu(shares[own], shares[~own], alternative="greater").pvalue
        if share >= max(TIMES * other, AT_LEAST) and pvalue * len(examined.dataset.labels) < SURE:
            values = {"label": label, "n": int(is_suspect[of_label].sum()), "photos": int(of_label.sum())}
            found.append((share, Words("odd_label", {**values, "share": share, "other": other})))
    return [words for _, words in sorted(found, key=lambda each: -each[0])]


def _mixed_labels(examined: Examined) -> list[Words]:
    """Labels of whose photos many look like one other label, to heads that did not learn from their members."""
    if examined.scores is None:
        return []
    answers = examined.scores.argmax(axis=1)
    found = []
    for index, label in enumerate(examined.dataset.labels):
        of_label = np.array([item.class_index == index for item in examined.dataset.items])
        shares = np.bincount(answers[of_label], minlength=len(examined.dataset.labels)) / of_label.sum()
        shares[index] = 0
        other = int(shares.argmax())
        if shares[other] >= LOOKS_LIKE:
            values = {"label": label, "share": float(shares[other]), "other": examined.dataset.labels[other]}
            found.append((float(shares[other]), Words("mixed_labels", values)))
    return [words for _, words in sorted(found, key=lambda each: -each[0])]


def _odd_members(examined: Examined, suspects: Sequence[Suspect]) -> list[Words]:
    """Members most of whose photos are suspects."""
    suspected = {each.photo.sha256 for each in suspects}
    photos = defaultdict(list)
    for photo in examined.photos:
        if photo.member_id is not None:
            photos[photo.label, photo.member_id].append(photo)
    odd = []
    for (label, member_id), own in photos.items():
        n = sum(photo.sha256 in suspected for photo in own)
        if len(own) >= FEW_PHOTOS and n > MOSTLY * len(own):
            values = {"member": member_id, "label": label, "n": n, "photos": len(own)}
            odd.append((n / len(own), Words("odd_member", values)))
    return [words for _, words in sorted(odd, key=lambda each: -each[0])]
