"""The card shows the photo, the heat map and the scores, with any photo and any fonts."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from bot.reply import fonts, picture
from bot.reply.picture import Bar, draw_card, lay_out
from bot.reply.texts import load_texts
from tests import hostile
from trainer.config import FIGURE, VIEWS
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


def forget_fonts() -> None:
    fonts._faces.cache_clear()
    fonts._face.cache_clear()


@pytest.fixture
def own_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that alone is searched for fonts, beside DejaVu Sans; call `forget_fonts` after a change."""
    with monkeypatch.context() as patch:
        patch.setattr(fonts, "JAPANESE", ())
        patch.setattr(fonts, "_font_files", lambda: iter(tmp_path.rglob("*.*")))
        forget_fonts()
        yield tmp_path
    forget_fonts()


@pytest.fixture
def without_japanese(own_fonts: Path) -> Path:
    """Simulates a machine with no other font than DejaVu Sans."""
    return own_fonts


THAI, KOREAN, HINDI = "ภาษาไทย", "한국어", "हिन्दी"
ARABIC, HEBREW = "العربية", "עברית"


def made_font(path: Path, letters: str) -> Path:
    """A font that draws each of these letters as a block of its own width, and nothing else; it has no Latin."""
    characters = sorted(set(letters) | {" "})
    names = [".notdef", *(f"u{ord(each):x}" for each in characters)]
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        for place in (0, 300) if name == ".notdef" else (0,):
            corners = ((place, 0), (place, 500), (place + 100 + 20 * number, 500), (place + 100 + 20 * number, 0))
            pen.moveTo(corners[0])
            for corner in corners[1:]:
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(each): f"u{ord(each):x}" for each in characters})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (700, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


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


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 330), st.integers(1, 372), st.sampled_from(VIEWS), st.tuples(*[st.floats(0, 0.99)] * 2))
def test_any_crop_makes_a_card(width: int, height: int, view: str, corner: tuple[float, float]) -> None:
    crop = (corner[0], corner[1], (1 + corner[0]) / 2, (1 + corner[1]) / 2)
    photo = np.zeros((height, width, 3), np.uint8)
    data = draw_card(photo, COLD, BARS, headline="Brazil.", footer="v1", view=f"{FIGURE}/{view}", crop=crop)
    assert Image.open(io.BytesIO(data)).size == (800, 420)


def test_the_heat_map_of_a_crop_lies_within_its_frame() -> None:
    crop = (0.5, 0.25, 1.0, 0.75)
    whole = draw_card(PHOTO, COLD, BARS, headline="", footer="")
    heat = np.ones((14, 14), np.float32)
    data = draw_card(PHOTO, heat, BARS, headline="", footer="", view=f"{FIGURE}/whole", crop=crop)
    seen, cold = (np.asarray(Image.open(io.BytesIO(each))).astype(np.int16) for each in (data, whole))
    rows, columns = np.nonzero(np.abs(seen - cold).sum(axis=2) > 60)
    height, width, _ = PHOTO.shape
    top, left = (420 - height) // 2, picture.MARGIN
    assert columns.min() == pytest.approx(left + 0.5 * width, abs=4)
    assert columns.max() == pytest.approx(left + width, abs=4)
    assert rows.min() == pytest.approx(top + 0.25 * height, abs=4)
    assert rows.max() == pytest.approx(top + 0.75 * height, abs=4)
    assert near(seen, picture.INK)[round(top + 0.25 * height) + 1, round(left + 0.6 * width) : left + width - 20].all()


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


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("name", ["sure", "unsure", "unknown"])
def test_no_answer_is_cut_on_its_card(name: str, language: str) -> None:
    text = load_texts().say(language, name, gallery={"en": "United Kingdom", "ja": "ニュージーランド"}[language])
    width = picture.SIZE[0] - 2 * picture.MARGIN - picture.PHOTO_BOX[0] - 30
    size_px, lines = lay_out(text, width, picture.HEADLINE_ALONE_PX if name == "unknown" else picture.HEADLINE_PX)
    assert (" " if language == "en" else "").join(lines) == text
    assert size_px >= 26


def test_a_headline_in_japanese_breaks_after_its_particles() -> None:
    text = "これまでに学んだどの写真にも似ていないので、ギャラリーの名前は挙げません。"
    _, lines = lay_out(text, 396, 300)
    assert all(line[-1] in "はがのをにで、。も" for line in lines)
    assert not any(line.startswith("も") for line in lines)


def test_a_headline_too_long_for_its_place_ends_in_an_ellipsis() -> None:
    size_px, lines = lay_out("word " * 200, 396, 120)
    assert size_px == 18
    assert len(lines) == 5
    assert lines[-1].endswith("…")
    assert "wordword" not in lines[-1]


@pytest.mark.usefixtures("without_japanese")
def test_without_a_japanese_font_the_other_wording_is_drawn() -> None:
    assert not fonts.can_write("日本")
    assert fonts.writable(("日本", "Japan")) == "Japan"
    japanese = card(bars=(Bar(("日本", "Japan"), 0.9),))
    assert np.array_equal(japanese, card(bars=(Bar("Japan", 0.9),)))


@pytest.mark.usefixtures("without_japanese")
def test_a_sign_that_no_font_has_is_left_out_and_a_letter_never() -> None:
    assert fonts.writable("🇧🇷 Brazil 🧑\u200d🎤!") == "Brazil !"
    assert fonts.writable(("日本 2", "🇯🇵 Japan\ufe0f")) == "Japan"
    assert fonts.writable(("日本", "🇯🇵")) == ""


@pytest.mark.usefixtures("without_japanese")
@pytest.mark.parametrize("label", [THAI, KOREAN, HINDI, "서울 Seoul"])
def test_a_label_that_no_font_has_is_shown_by_its_english_name_or_not_at_all(label: str) -> None:
    assert fonts.writable((label, "Name")) == "Name"
    named = draw_card(PHOTO, COLD, (Bar((label, "Name"), 0.9),), headline=(f"a {label} b", "a Name b"), footer="v1")
    assert named == draw_card(PHOTO, COLD, (Bar("Name", 0.9),), headline="a Name b", footer="v1")
    nameless = draw_card(PHOTO, COLD, (Bar(label, 0.9), Bar("Brazil", 0.1)), headline=label, footer="v1")
    assert nameless == draw_card(PHOTO, COLD, (), headline="", footer="v1")


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow cannot shape letters here")
@pytest.mark.usefixtures("without_japanese")
@pytest.mark.parametrize("label", [ARABIC, HEBREW, f"{ARABIC} 2", f"{HEBREW} & {ARABIC}"])
def test_letters_from_right_to_left_are_joined_and_in_their_order(label: str) -> None:
    font = fonts.load(30, text=label)
    page = Image.new("RGB", (900, 80))
    font.write(ImageDraw.Draw(page), (10, 10), label, (255, 255, 255))
    expected = Image.new("RGB", (900, 80))
    face = ImageFont.truetype(fonts._faces()[0].regular, 30, layout_engine=ImageFont.Layout.RAQM)
    ImageDraw.Draw(expected).text((10, 10), label, "white", face, direction="rtl")
    assert page.tobytes() == expected.tobytes()
    in_order = sum(fonts.load(30).getlength(letter) for letter in ARABIC)
    assert fonts.load(30).getlength(ARABIC) < 0.9 * in_order  # joined letters are narrower


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow cannot shape letters here")
@pytest.mark.usefixtures("without_japanese")
def test_a_word_from_right_to_left_keeps_its_place_in_an_english_sentence() -> None:
    """Also where a line begins with it."""

    def written(line: str, text: str) -> Image.Image:
        page = Image.new("RGB", (900, 80))
        fonts.load(30, text=text).write(ImageDraw.Draw(page), (10, 10), line, (255, 255, 255))
        return page

    whole = written(f"{HEBREW} gallery.", f"looks like the {HEBREW} gallery.")
    beginning = (0, 0, 10 + int(fonts.load(30).getlength(HEBREW)), 80)
    assert whole.crop(beginning).tobytes() == written(HEBREW, HEBREW).crop(beginning).tobytes()
    assert whole.tobytes() != written(HEBREW, HEBREW).tobytes()


@pytest.mark.parametrize("label", [ARABIC, HEBREW, HINDI, THAI])
def test_what_must_be_shaped_is_not_written_where_pillow_cannot(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    assert fonts.writable((label, "Name")) == "Name"


def test_a_font_of_the_system_is_used_for_letters_that_the_others_lack(own_fonts: Path) -> None:
    made_font(own_fonts / "Odd-Regular.ttf", KOREAN + "กขค")
    made_font(own_fonts / "noto" / "NotoSansKorean-Regular.ttf", KOREAN)
    made_font(own_fonts / "LastResort.otf", KOREAN + HINDI + "กขคง")
    (own_fonts / "Broken-Regular.ttf").write_bytes(b"no font")
    forget_fonts()
    assert fonts.writable((f"{KOREAN} 2", "Korea")) == f"{KOREAN} 2"
    runs = fonts._runs(f"the {KOREAN} กขค gallery", "ltr")
    named = [(run.text.strip(), run.face.regular.stem) for run in runs if run.face]
    assert named == [
        ("the", "DejaVuSans"),
        (KOREAN, "NotoSansKorean-Regular"),
        ("กขค", "Odd-Regular"),
        ("gallery", "DejaVuSans"),
    ]
    assert fonts.writable(("กขคง", "Thai")) == "Thai"


def test_the_bold_file_of_a_font_is_used_if_it_has_the_letters(own_fonts: Path) -> None:
    made_font(own_fonts / "One-Regular.ttf", KOREAN)
    made_font(own_fonts / "One-Bold.ttf", KOREAN[:1])
    forget_fonts()
    (run,) = fonts._runs(KOREAN[:1], "ltr")
    (longer,) = fonts._runs(KOREAN, "ltr")
    bold = fonts.load(20, bold=True)
    assert [Path(str(bold._of(each).path)).stem for each in (run, longer)] == ["One-Bold", "One-Regular"]


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
