"""The card shows the photo, the heat map and the scores, with any photo and any fonts."""

import io
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bot.reply import fonts, picture
from bot.reply.picture import Bar, draw_card, percentage
from tests import hostile
from trainer.config import VIEWS
from trainer.photos.decode_process import ROOT

Heat = npt.NDArray[np.float32]
BARS = (Bar("Brazil", 0.72), Bar("Japan", 0.2), Bar("China", 0.08))
PHOTO = np.asarray(hostile.drawing())
COLD = np.zeros((14, 14), np.float32)


def card(
    photo: npt.NDArray[np.uint8] = PHOTO, heatmap: Heat = COLD, bars: tuple[Bar, ...] = BARS, *, view: str = "whole"
) -> npt.NDArray[np.int16]:
    """The card's pixels, (420, 800, 3)."""
    data = draw_card(
        photo, heatmap, bars, headline="Looks like Brazil.", footer="v1", scale=("little", "much"), view=view
    )
    return np.asarray(Image.open(io.BytesIO(data))).astype(np.int16)


def near(pixels: npt.NDArray[np.int16], colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Where a picture has a colour, within JPEG's error."""
    found: npt.NDArray[np.bool_] = np.abs(pixels - np.asarray(colour)).max(axis=2) < 24
    return found


def hot(*, top: float, left: float) -> Heat:
    """A heat map that is hot in one quarter; 0 or 0.5 for the first or second half."""
    heatmap = np.zeros((14, 14), np.float32)
    heatmap[int(14 * top) : int(14 * top) + 7, int(14 * left) : int(14 * left) + 7] = 1
    return heatmap


def middle_of_change(heatmap: Heat, *, view: str = "whole") -> tuple[float, float]:
    """The centre of the heat map in the card: row and column."""
    changed = np.abs(card(heatmap=heatmap, view=view) - card(view=view)).sum(axis=2) > 60
    rows, columns = np.nonzero(changed)
    return float(rows.mean()), float(columns.mean())


@pytest.fixture
def without_japanese(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulates a machine with no other font than DejaVu Sans."""
    remembered = (fonts.load, fonts._has, fonts._paths)
    for function in remembered:
        function.cache_clear()
    monkeypatch.setattr(fonts, "JAPANESE", ())
    yield
    for function in remembered:
        function.cache_clear()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 330), st.integers(1, 372), st.integers(1, 20), st.sampled_from(VIEWS))
def test_any_photo_and_any_heat_map_make_a_card(width: int, height: int, side: int, view: str) -> None:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    heatmap = np.random.default_rng(side).random((side, side), dtype=np.float32)
    data = draw_card(noise, heatmap, BARS, headline="Looks like Brazil.", footer="v1", view=view)
    assert Image.open(io.BytesIO(data)).size == (800, 420)
    assert len(data) < 200_000


def test_the_heat_map_shows_where_it_is_hot() -> None:
    upper, _ = middle_of_change(hot(top=0, left=0))
    lower, left = middle_of_change(hot(top=0.5, left=0))
    _, right = middle_of_change(hot(top=0.5, left=0.5))
    assert upper < 420 / 2 < lower
    assert left < right


def test_the_heat_map_of_the_mirror_view_is_turned_back() -> None:
    _, left = middle_of_change(hot(top=0, left=0))
    _, turned = middle_of_change(hot(top=0, left=0), view="mirror")
    assert turned > left + 50


def test_the_heat_map_of_a_square_view_covers_that_square() -> None:
    everywhere = np.ones((14, 14), np.float32)
    rows = [middle_of_change(everywhere, view=view)[0] for view in ("top", "middle", "bottom")]
    assert rows == sorted(rows)
    assert rows[2] - rows[0] > 80


def test_cold_places_keep_the_brightness_of_the_photo() -> None:
    height, width, _ = PHOTO.shape
    top, left = (420 - height) // 2, picture.MARGIN
    shown = Image.fromarray(card().astype(np.uint8)).crop((left, top, left + width, top + height))
    expected = hostile.drawing()
    assert np.abs(np.asarray(shown.convert("L"), float) - np.asarray(expected.convert("L"), float)).mean() < 4


def test_the_length_of_a_bar_is_its_share() -> None:
    best = near(card(), picture.BEST_BAR).sum(axis=1).max()
    others = near(card(), picture.BAR)[200:].sum(axis=1).max()
    assert others / best == pytest.approx(0.2 / 0.72, abs=0.03)


def test_a_card_shows_four_bars_at_most() -> None:
    many = tuple(Bar(f"label {number}", 0.1) for number in range(10))
    assert np.array_equal(card(bars=many), card(bars=many[:4]))


def test_nothing_is_drawn_over_the_edge() -> None:
    long = "Verylonglabelnamewithoutanyspace" * 9
    data = draw_card(PHOTO, COLD, (Bar(long, 0.5), Bar(long, 0.5)), headline=long, footer=long, scale=("a", "b"))
    pixels = np.asarray(Image.open(io.BytesIO(data))).astype(np.int16)
    assert near(pixels[:, -20:], picture.BACKGROUND).all()
    assert near(pixels[-12:], picture.BACKGROUND).all()


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0%"), (0.001, "<1%"), (0.012, "1%"), (0.5, "50%"), (0.724, "72%"), (0.9951, ">99%"), (1, "100%")],
)
def test_a_percentage_is_whole_and_not_rounded_to_0_or_100(share: float, shown: str) -> None:
    assert percentage(share) == shown


@pytest.mark.usefixtures("without_japanese")
def test_without_a_japanese_font_the_other_wording_is_drawn() -> None:
    assert not fonts.can_write("日本")
    assert fonts.writable(("日本", "Japan")) == "Japan"
    japanese = card(bars=(Bar(("日本", "Japan"), 0.9),))
    assert np.array_equal(japanese, card(bars=(Bar("Japan", 0.9),)))


@pytest.mark.usefixtures("without_japanese")
def test_a_character_that_no_font_has_is_left_out() -> None:
    assert fonts.writable("🇧🇷 Brazil 日本!") == "Brazil !"
    assert fonts.writable("日本") == ""


@pytest.mark.skipif(not fonts.can_write("日本"), reason="no Japanese font is installed here")
def test_with_a_japanese_font_japanese_is_drawn() -> None:
    assert fonts.writable(("日本のギャラリー", "Japan")) == "日本のギャラリー"


def test_drawing_loads_neither_matplotlib_nor_keras() -> None:
    code = (
        "import sys, numpy as np; from bot.reply.picture import Bar, draw_card\n"
        "photo, heatmap = np.zeros((90, 60, 3), np.uint8), np.zeros((7, 7), np.float32)\n"
        "draw_card(photo, heatmap, [Bar('a', 1)], headline='b', footer='c')\n"
        "print({'matplotlib', 'keras', 'tensorflow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
