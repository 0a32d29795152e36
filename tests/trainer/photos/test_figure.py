"""A figure is found by a real detector within the decoder's walls, and is never a bare face."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import hostile
from tests.faces import FACE, SIZE, as_png, portrait, scene
from trainer.config import FIGURE, ImageSettings
from trainer.errors import ImageError, ModelError
from trainer.photos import decode_process, figure, images
from trainer.photos.decode import Decoder
from trainer.photos.decode_process import ROOT
from trainer.photos.figure import Detector, Figures, around, check_detector
from trainer.photos.views import view_box

LIMITS = ImageSettings(crop="figure")
WHOLE_FIGURE, MIRRORED = f"{FIGURE}/whole", f"{FIGURE}/mirror"
ONE = as_png(scene((600, 100)))


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(LIMITS, n_children=1) as shared:
        yield shared


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def sides() -> st.SearchStrategy[int]:
    return st.integers(32, 4000)


@given(sides(), sides(), st.tuples(*[st.floats(0, 1)] * 3), st.floats(0.5, 2))
def test_a_crop_is_never_a_bare_face(width: int, height: int, at: tuple[float, float, float], shape: float) -> None:
    side = max(1.0, at[2] * min(width, height))
    face = (at[0] * (width - side), at[1] * (height - side), side * min(shape, 1), side * min(1 / shape, 1))
    box = around([face], (width, height)).box
    if box is None:
        assert max(face[2:]) < figure.TINY * max(width, height)
        return
    left, top, right, bottom = (share * length for share, length in zip(box, (width, height) * 2, strict=True))
    longer, middle, near = max(face[2:]), face[0] + face[2] / 2, 1e-6 * max(width, height)
    assert left <= max(0, middle - 3 * longer) + near
    assert right >= min(width, middle + 3 * longer) - near
    assert top <= max(0, face[1] - 1.5 * longer) + near
    assert bottom >= min(height, face[1] + 8 * longer) - near
    if (left, top) > (near, near) and right < width - near and bottom < height - near:
        assert face[2] * face[3] < (right - left) * (bottom - top) / 30


def test_figures_side_by_side_are_kept_together_and_passers_by_are_not() -> None:
    large, second, small = (100.0, 100.0, 50.0, 60.0), (700.0, 120.0, 40.0, 45.0), (1900.0, 100.0, 20.0, 25.0)
    together = around([large, second, small], (2000, 1000))
    assert together.n_faces == 3
    assert together.box == around([large, second], (2000, 1000)).box
    assert together.box is not None
    assert together.box[2] == pytest.approx((720 + 3 * 45) / 2000)


def test_without_a_face_or_with_tiny_ones_there_is_nothing_to_crop_to() -> None:
    assert around([], (600, 400)) == Figures(0, 0.0, None)
    assert around([(10.0, 10.0, 9.0, 9.0)], (600, 400)) == Figures(1, 9 / 600, None)


@pytest.mark.parametrize(
    ("n_faces", "largest", "box"),
    [
        (1, float("nan"), None),
        (1, 0.5, (0.0, 0.0, 2.0, 1.0)),
        (1, 0.5, (0.5, 0.0, 0.5, 1.0)),
        (-1, 0.5, None),
        (10**9, 0.5, None),
        (1, "0.5", None),
    ],
)
def test_figures_that_cannot_be_are_refused(n_faces: int, largest: float, box: tuple[float, ...] | None) -> None:
    with pytest.raises(ValueError, match=r"share|faces|box"):
        Figures(n_faces, largest, box)  # type: ignore[arg-type]


def test_a_real_face_is_found_within_the_walls(decoder: Decoder, detector: Detector) -> None:
    found = decoder.figures(ONE)
    assert found == detector.find(scene((600, 100)))
    assert found.n_faces == 1
    assert found.box is not None
    left, top, right, bottom = (share * length for share, length in zip(found.box, (900, 600) * 2, strict=True))
    assert left < 600 + FACE[0] * 128
    assert right > 600 + FACE[2] * 128
    assert top < 100 + FACE[1] * 128 * SIZE[1] / SIZE[0]
    assert bottom > 300  # far below the face: the body belongs to it
    assert left > 300  # and the rest of the picture does not
    if sys.platform == "linux":
        assert decoder.lacks() == ()


def test_several_real_faces_are_counted(decoder: Decoder) -> None:
    assert decoder.figures(as_png(scene((20, 60), (300, 60), (600, 60)))).n_faces == 3


def test_the_views_of_a_figure_are_those_of_what_is_cut_out(decoder: Decoder) -> None:
    box = decoder.figures(ONE).box
    assert box is not None
    left, top, right, bottom = view_box((900, 600), WHOLE_FIGURE, box)
    cut_out = np.ascontiguousarray(np.asarray(scene((600, 100)))[top:bottom, left:right])
    whole, mirrored = decoder.views(ONE, [WHOLE_FIGURE, MIRRORED])
    assert np.abs(whole.astype(int) - images.view(cut_out, "whole")).mean() < 1
    assert np.array_equal(mirrored, whole[:, ::-1])


def test_a_photo_without_a_figure_stays_whole(decoder: Decoder) -> None:
    data = as_png(scene())
    assert decoder.figures(data).box is None
    assert np.array_equal(decoder.prepare(data, WHOLE_FIGURE), decoder.prepare(data, "whole"))


@pytest.mark.filterwarnings("ignore")  # of Pillow, about broken EXIF
def test_training_and_serving_cut_out_the_same_in_every_format(decoder: Decoder, detector: Detector) -> None:
    for name in ("JPEG", "PNG", "WEBP", "HEIF"):
        data = hostile.save(portrait().resize((1000, 1172)) if name == "JPEG" else portrait(), name)
        expected = images.prepare(data, LIMITS, [WHOLE_FIGURE], find=detector.find)[0]
        assert np.array_equal(decoder.prepare(data, WHOLE_FIGURE), expected)
        assert decoder.figures(data) == images.find_figures(data, LIMITS, detector.find)


@pytest.mark.filterwarnings("ignore")
def test_hostile_files_are_refused_for_the_same_reasons(decoder: Decoder) -> None:
    def reason(data: bytes, view: str) -> str:
        try:
            decoder.prepare(data, view)
        except ImageError as error:
            return error.reason
        return hostile.ARRAY

    before = decoder.pids()
    for file in hostile.corpus()[::29]:
        assert reason(file.data, WHOLE_FIGURE) == reason(file.data, "whole"), file.name
    assert decoder.pids() == before


def test_only_a_view_of_a_figure_loads_the_detector() -> None:
    """Without one, a decoder does what it did before there was a crop, at the same cost."""
    with Decoder(ImageSettings(), n_children=1) as decoder:
        whole = decoder.prepare(ONE)
        before = decoder.pids()
        assert decoder.figures(ONE).n_faces == 1
        with_detector = decoder.pids()
        assert with_detector != before  # it had to be loaded before the walls closed
        assert np.array_equal(decoder.prepare(ONE), whole)
        decoder.prepare(ONE, WHOLE_FIGURE)
        assert decoder.pids() == with_detector


def test_opencv_is_not_imported_unless_a_detector_is_made() -> None:
    code = "import sys, bot.app, trainer.photos.decode_child; sys.exit('cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_views_of_the_figure_need_a_detector_and_come_alone() -> None:
    for views, find in (([WHOLE_FIGURE], None), (["whole", WHOLE_FIGURE], lambda _: Figures(0, 0.0, None))):
        with pytest.raises(ValueError, match="need a detector"):
            images.prepare(ONE, LIMITS, views, find=find)


def test_another_crop_and_a_missing_or_other_detector_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    check_detector("whole")
    check_detector(WHOLE_FIGURE)
    with pytest.raises(ModelError, match="cropped by figure9, and this dokocos crops by figure1"):
        check_detector("figure9/whole")
    monkeypatch.setattr(figure, "MODEL_SHA256", "0" * 64)
    figure._check_installed.cache_clear()
    with pytest.raises(ModelError, match="is another detector than that of figure1"):
        check_detector(WHOLE_FIGURE)
    monkeypatch.setattr(figure, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"OpenCV.* is not installed; see docs/INSTALL\.md"):
        check_detector(WHOLE_FIGURE)
    with Decoder(ImageSettings(), n_children=1) as decoder:
        whole = decoder.prepare(ONE)
        with pytest.raises(ModelError, match="is not installed"):
            decoder.prepare(ONE, WHOLE_FIGURE)
        assert np.array_equal(decoder.prepare(ONE), whole)  # the others are decoded as before
    with pytest.raises(ModelError, match="is not installed"):
        Decoder(LIMITS, n_children=1).start()
    figure._check_installed.cache_clear()
    check_detector("mirror")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"n_faces": 1, "largest": 0.5, "box": [0, 0, 1]},
        {"n_faces": 1, "largest": 0.5, "box": [0, 0, 9, 9]},
        {"n_faces": True, "largest": None, "box": None},
    ],
)
def test_a_decoder_that_was_taken_over_can_say_nothing_impossible(
    answer: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from trainer.photos import decode_child\n"
        f"decode_child._answer = lambda *_: ({answer!r}, b'')\n"
        "decode_child._main()"
    )
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, "-c", code))
    with Decoder(LIMITS, n_children=1) as decoder, pytest.raises(ImageError, match="invalid answer"):
        decoder.figures(ONE)
