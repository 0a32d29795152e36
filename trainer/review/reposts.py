"""Finds reposts by other members that perceptual hashes miss: photos that are near by features or by brightness.

Their pixels are compared, each pair once: what was seen is kept for later reviews.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
from threadpoolctl import threadpool_limits

from trainer.errors import ImageError
from trainer.head.head import Floats, Indexes
from trainer.photos.dataset import Item
from trainer.photos.decode import Decoder
from trainer.photos.photo_files import PhotoFiles, Stored, read_photo
from trainer.review.compared import Compared
from trainer.review.copies import Shrunk, likeness, mirrored
from trainer.review.neighbours import nearest
from trainer.review.statistics import SIDE_PX, VIEW

CANDIDATES = 4  # neighbours of a photo whose pixels are looked at; as many by features as by brightness
SAME = 0.95  # correlation of two pictures that are one
SURELY_SAME = 0.97
HELD_IN_MEMORY = 8192  # photos, of 9 kB each
SAVE_EVERY = 4096  # pairs

Pair = tuple[int, int]  # rows, the later photo first


@dataclass(frozen=True, slots=True)
class Repost:
    """A photo that is another one once more.

    Attributes:
        row: of the copy: the one in training, else the later one.
        original: the row of the other.
        likeness: -1..1.
    """

    row: int
    original: int
    likeness: float


@dataclass(frozen=True, slots=True)
class Look:
    """Looks at stored photos, within the decoder's walls."""

    decoder: Decoder
    files: PhotoFiles

    def at(self, photo: Stored) -> Shrunk | None:
        """A photo as it is compared; None if it cannot be read."""
        try:
            return Shrunk.of(self.decoder.prepare(read_photo(photo, self.files), VIEW, side_px=SIDE_PX))
        except ImageError:
            return None


def candidates(rows: Floats, small: Floats, members: Indexes) -> list[Pair]:
    """Pairs of photos of two members that may be one picture.

    Args:
        rows: (n, d) features of length one.
        small: (n, m) `small_brightness` of each.
        members: (n,) a number for each member.
    """
    found = [nearest(rows, members, n=CANDIDATES)[0]]
    found += [nearest(small, members, n=CANDIDATES, others=others)[0] for others in (small, mirrored(small))]
    near = np.concatenate(found, axis=1)
    return sorted({(max(at, other), min(at, other)) for at in range(len(near)) for other in near[at].tolist()})


def find_reposts(
    pairs: Sequence[Pair],
    items: Sequence[Item],
    compared: Compared,
    look: Look,
    *,
    progress: Callable[[int, int], None],
) -> Iterator[Repost]:
    """Compare pairs, and give each photo once that is another one.

    Args:
        pairs: rows of `items`.
        compared: what was seen before; new pairs are added and saved.

    Raises:
        StorageError: the disk is full; pairs saved so far are kept.
    """
    _compare(pairs, items, compared, look, progress)
    done: set[int] = set()
    for one, other in pairs:
        seen = compared.find(items[one].sha256, items[other].sha256)
        if seen is None or seen < SAME:
            continue
        # The copy in training can go, the held-out one stays.
        is_turned = items[other].split == "train" != items[one].split
        row, original = (other, one) if is_turned else (one, other)
        if row not in done:
            done.add(row)
            yield Repost(row, original, seen)


def _compare(
    pairs: Sequence[Pair],
    items: Sequence[Item],
    compared: Compared,
    look: Look,
    progress: Callable[[int, int], None],
) -> None:
    """Compare the pairs that are new; of a photo that cannot be read, nothing is noted."""

    @lru_cache(maxsize=HELD_IN_MEMORY)
    def shrunk(row: int) -> Shrunk | None:
        return look.at(items[row])

    def compare(pair: Pair) -> float | None:
        one, other = map(shrunk, pair)
        return None if one is None or other is None else likeness(one, other)

    new = [pair for pair in pairs if compared.find(*(items[row].sha256 for row in pair)) is None]
    waiting, n_done, held = iter(new), 0, {item.sha256 for item in items}
    # The arrays are small: threads of BLAS would only wait for each other.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(thread_name_prefix="compare") as pool:
        while part := list(islice(waiting, SAVE_EVERY)):
            for (one, other), seen in zip(part, pool.map(compare, part), strict=True):
                if seen is not None:
                    compared.put(items[one].sha256, items[other].sha256, seen)
                n_done += 1
                progress(n_done, len(new))
            compared.save(held)
