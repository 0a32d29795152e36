"""Any bytes give the right image, or an `ImageError` with the reason."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests import hostile
from tests.verdict import ALIKE, difference
from trainer.config import VIEWS, ImageSettings
from trainer.errors import ImageError
from trainer.photos import filetype
from trainer.photos.images import load_rgb, prepare, thumbnail, view

LIMITS = ImageSettings()
# Pillow warns of odd metadata; a photo is not refused for it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def outcome(data: bytes, limits: ImageSettings = LIMITS) -> str:
    """ "array", or the reason of the refusal."""
    try:
        prepare(data, limits, ["whole"])
    except ImageError as error:
        return error.reason
    return hostile.ARRAY


def refusal(data: bytes, limits: ImageSettings = LIMITS) -> str:
    """The message of the refusal."""
    with pytest.raises(ImageError) as caught:
        prepare(data, limits, ["whole"])
    return str(caught.value)


def bands(*colours: str, size: tuple[int, int] = (200, 600)) -> bytes:
    """A photo of equal stripes along its longer side."""
    strip = Image.new("RGB", (len(colours), 1))
    for place, colour in enumerate(colours):
        strip.paste(colour, (place, 0, place + 1, 1))
    if size[1] > size[0]:
        strip = strip.transpose(Image.Transpose.ROTATE_270)
    return hostile.save(strip.resize(size, Image.Resampling.NEAREST), "PNG")


def test_the_drawing_is_decoded_alike_in_every_format() -> None:
    off = {
        file.name: difference(prepare(file.data, LIMITS, ["whole"])[0], file.expected)
        for file in hostile.corpus()
        if file.expected is not None
    }
    assert len(off) > 100
    assert {name: how_much for name, how_much in off.items() if how_much > ALIKE} == {}


def test_the_comparison_detects_a_wrong_rotation() -> None:
    seen = prepare(hostile.encoded("PNG"), LIMITS, ["whole"])[0]
    assert min(difference(seen, hostile.drawing().transpose(turn)) for turn in Image.Transpose) > 5 * ALIKE


@pytest.mark.parametrize("name", hostile.FORMATS)
def test_prepare_equals_view_of_load_rgb(name: str) -> None:
    large = hostile.drawing().resize((1300, 2000))
    for data in (hostile.encoded(name), hostile.save(large, name)):
        rgb = load_rgb(data, LIMITS, side_px=64)
        one_by_one = np.stack([view(rgb, each, side_px=64) for each in VIEWS])
        assert np.array_equal(prepare(data, LIMITS, VIEWS, side_px=64), one_by_one)


def test_views_are_in_the_requested_order_and_may_repeat() -> None:
    data = hostile.encoded("PNG")
    first, second, third = prepare(data, LIMITS, ["mirror", "top", "mirror"])
    assert np.array_equal(first, third)
    assert np.array_equal(second, prepare(data, LIMITS, ["top"])[0])


@given(st.integers(32, 90), st.integers(32, 90), st.integers(0, 2**32 - 1))
def test_the_mirror_view_is_the_exact_mirror_image(width: int, height: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(view(rgb, "mirror", side_px=32), view(rgb, "whole", side_px=32)[:, ::-1])


@pytest.mark.parametrize("size", [(200, 600), (600, 200)])
def test_squares_are_taken_along_the_longer_side(size: tuple[int, int]) -> None:
    seen = prepare(bands("red", "lime", "blue", size=size), LIMITS, ["top", "middle", "bottom"])
    assert [tuple(square.reshape(-1, 3).mean(0).round()) for square in seen] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_the_whole_view_shows_the_whole_photo() -> None:
    whole = prepare(bands("red", "lime", "blue"), LIMITS, ["whole"])[0]
    assert [tuple(row) for row in whole[[5, 112, 218], 112].tolist()] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.mark.parametrize("shape", [(50, 50), (50, 50, 4), (50, 50, 3, 1)])
def test_a_view_of_another_array_than_rgb_is_a_value_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        view(np.zeros(shape, np.uint8), "whole")
    with pytest.raises(ValueError, match="float64"):
        view(np.zeros((50, 50, 3)), "whole")  # type: ignore[arg-type]


def test_an_unknown_view_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="'left' is no view; known: whole, mirror"):
        prepare(hostile.encoded("PNG"), LIMITS, ["left"])


def test_a_large_jpeg_is_decoded_small_when_only_views_are_wanted() -> None:
    data = hostile.save(hostile.drawing().resize((2000, 3000)), "JPEG")
    assert load_rgb(data, LIMITS).shape == (3000, 2000, 3)
    height, width, _ = load_rgb(data, LIMITS, side_px=224).shape
    assert (width, height) == (500, 750)


def test_a_thumbnail_keeps_the_proportions_and_is_never_enlarged() -> None:
    data = hostile.save(hostile.drawing().resize((1000, 1500)), "JPEG")
    assert thumbnail(data, LIMITS, max_width=300, max_height=300).shape == (300, 200, 3)
    assert thumbnail(hostile.encoded("GIF"), LIMITS, max_width=999, max_height=999).shape == (270, 180, 3)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(64, axis=0)
    seen = load_rgb(hostile.save(Image.fromarray(ramp), "PNG"), LIMITS)
    assert np.array_equal(seen[0, :, 0], np.arange(256))


@pytest.mark.parametrize(
    ("setting", "allowed", "reason"),
    [
        ("max_bytes", len(hostile.encoded("PNG")), "too_large"),
        ("max_pixels", 180 * 270, "too_many_pixels"),
        ("min_side_px", 180, "too_small"),
    ],
)
def test_a_file_exactly_at_a_limit_is_accepted(setting: str, allowed: int, reason: str) -> None:
    data = hostile.encoded("PNG")
    step = 1 if setting.startswith("min") else -1
    assert outcome(data, ImageSettings.model_validate({setting: allowed})) == hostile.ARRAY
    assert outcome(data, ImageSettings.model_validate({setting: allowed + step})) == reason


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_may_have_as_many_frames_as_allowed(name: str) -> None:
    images = [hostile.drawing().copy(), *(hostile.drawing().rotate(angle) for angle in (90, 180, 270))]
    data = hostile.save(images[0], name, save_all=True, append_images=images[1:])
    assert outcome(data, ImageSettings(max_frames=4)) == hostile.ARRAY
    assert outcome(data, ImageSettings(max_frames=3)) == "animated_too_long"


@pytest.mark.parametrize("action", ["error", "ignore", "default"])
def test_a_bomb_is_refused_with_any_warning_filter(action: str) -> None:
    data = hostile.png((10_000, 10_000), 1, 0, hostile.zeros(10_000 * 1251))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter(action)  # type: ignore[arg-type]
        assert outcome(data) == "too_many_pixels"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><p>Not found", "an HTML page (27 bytes) instead of an image; use JPEG"),
        (b"8BPS" + bytes(96), "a Photoshop file (100 bytes) is not decoded here; save it as JPEG"),
        (b"hello", "text (5 bytes)"),
        (hostile.encoded("PNG")[:900], "the PNG ends early, after 900 bytes; fetch or send it again"),
        (hostile.encoded("BMP")[:14] + bytes(145_840), "the BMP (145,854 bytes) is damaged"),
        (hostile.save(Image.new("F", (50, 50)), "TIFF"), "no agreed range"),
    ],
)
def test_a_refusal_says_what_the_file_is_and_what_to_do(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_a_refusal_for_its_size_names_the_size_and_the_setting() -> None:
    said = refusal(hostile.encoded("PNG"), ImageSettings(max_pixels=999))
    assert "180 x 270 pixels" in said
    assert "images.max_pixels allows 999" in said


def test_global_settings_of_pillow_are_not_changed() -> None:
    outcome(hostile.encoded("JPEG")[:900])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


@pytest.mark.parametrize("name", hostile.FORMATS)
def test_a_complete_file_is_not_called_truncated(name: str) -> None:
    assert not filetype.is_cut_short(hostile.encoded(name))


SMALL = ImageSettings(max_pixels=1_000_000, max_frames=50)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(hostile.FORMATS), st.data())
def test_flipped_bits_give_an_array_or_an_image_error(name: str, data: st.DataObject) -> None:
    damaged = bytearray(hostile.encoded(name))
    places = st.integers(0, len(damaged) - 1) | st.integers(0, 150)
    for place, bit in data.draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=20)):
        damaged[place] ^= 1 << bit
    assert outcome(bytes(damaged), SMALL) in hostile.FLIPPED


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(hostile.FORMATS), st.integers(0, 64), st.binary(max_size=400))
def test_noise_after_a_valid_beginning_gives_an_image_error(name: str, kept: int, noise: bytes) -> None:
    assert outcome(hostile.encoded(name)[:kept] + noise, SMALL) != hostile.ARRAY


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt"])
def test_texts_and_profiles_of_a_png_are_not_unpacked(name: bytes) -> None:
    """One of 1.1 MB is more than Pillow unpacks."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 40)).save(out, "PNG")
    plain = out.getvalue()
    chunk = _png_chunk(name, b"name\0\0" + zlib.compress(bytes(1_100_000)))
    heavy = plain[:33] + chunk + plain[33:]  # after the header
    with pytest.raises(ValueError, match="Decompressed data too large"):
        Image.open(io.BytesIO(heavy)).load()
    np.testing.assert_array_equal(load_rgb(heavy, ImageSettings()), load_rgb(plain, ImageSettings()))


@pytest.mark.parametrize(("alpha", "expected"), [(0, (200, 30, 40)), (255, (200, 30, 40))])
def test_a_bmp_that_is_transparent_everywhere_is_the_picture_that_it_holds(
    alpha: int, expected: tuple[int, int, int]
) -> None:
    header = struct.pack("<IiiHHIIiiII", 108, 40, -40, 1, 32, 3, 40 * 40 * 4, 2835, 2835, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(108 - 40 - 16 - 4)
    pixels = bytes([expected[2], expected[1], expected[0], alpha]) * (40 * 40)
    start = 14 + len(header) + len(masks)
    data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + masks + pixels
    assert tuple(load_rgb(data, ImageSettings())[20, 20]) == expected


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (143, 201, 3), dtype=np.uint8))
WAYS: tuple[dict[str, int], ...] = (
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
    {"optimize": True},
)


def alike(data: bytes, whole: bytes) -> bool:
    """Whether a file is decoded, at full size and for views, to the same picture as another."""
    return np.array_equal(load_rgb(data, LIMITS), load_rgb(whole, LIMITS)) and np.array_equal(
        prepare(data, LIMITS, ["whole"], side_px=32), prepare(whole, LIMITS, ["whole"], side_px=32)
    )


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("image", [hostile.drawing(), hostile.drawing().convert("L"), NOISE])
def test_a_jpeg_that_lacks_only_its_end_is_the_picture(image: Image.Image, how: dict[str, int]) -> None:
    whole = hostile.save(image, "JPEG", **how)
    for data in (whole[:-1], whole[:-2], whole[:-2] + b"\r\n", whole[:-2] + bytes(9)):
        assert alike(data, whole)


@pytest.mark.parametrize("how", WAYS)
def test_a_jpeg_that_lacks_some_of_its_picture_is_not_judged(how: dict[str, int]) -> None:
    whole = hostile.save(NOISE, "JPEG", **how)
    for kept in (len(whole) - 6, len(whole) - 20, len(whole) * 9 // 10, len(whole) // 2):
        assert {outcome(whole[:kept] + tail) for tail in (b"", b"\xff")} <= hostile.BROKEN
    assert outcome(whole[: len(whole) // 2] + b"\r\n") in hostile.BROKEN


def test_a_progressive_jpeg_that_ends_between_two_scans_is_not_judged() -> None:
    whole = hostile.save(hostile.drawing(), "JPEG", progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    assert len(scans) > 8
    assert {outcome(whole[:at]) for at in scans[1:]} <= hostile.BROKEN


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(7)}])
@pytest.mark.parametrize("wrong", [-9, -2, -1, 1, 2, 1000])
def test_a_webp_whose_header_tells_a_wrong_length_is_the_picture(options: dict[str, object], wrong: int) -> None:
    whole = hostile.save(hostile.drawing(), "WEBP", **options)
    told = (len(whole) - 8 + wrong).to_bytes(4, "little")
    assert alike(whole[:4] + told + whole[8:], whole)


def test_a_webp_without_the_byte_that_fills_up_its_last_chunk_is_the_picture() -> None:
    whole = hostile.save(hostile.drawing(), "WEBP", exif=b"Exif\0\0" + bytes(7))
    assert whole.endswith(b"\0")
    assert int.from_bytes(whole[whole.rindex(b"EXIF") + 4 :][:4], "little") % 2 == 1
    assert alike(whole[:-1], whole)
    assert outcome(whole[: len(whole) // 2]) in hostile.BROKEN


@pytest.mark.parametrize(("name", "end"), [("PNG", 16), ("GIF", 2)])
def test_a_png_or_gif_without_what_follows_its_picture_is_the_picture(name: str, end: int) -> None:
    whole = hostile.encoded(name)
    for n_missing in range(1, end + 1):
        assert alike(whole[:-n_missing], whole)


@pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"sBIT", b"eXIf", b"iTXt", b"prVt"])
@pytest.mark.parametrize("checksum", [None, b"XXXX"])
def test_a_damaged_chunk_that_is_not_needed_does_not_refuse_a_png(kind: bytes, checksum: bytes | None) -> None:
    whole = hostile.encoded("PNG")
    chunk = _png_chunk(kind, b"\1\2")
    assert alike(whole[:33] + chunk[:-4] + (checksum or chunk[-4:]) + whole[33:], whole)


@pytest.mark.parametrize("options", [{}, {"compression": "tga_rle"}])
def test_a_targa_image_is_called_so(options: dict[str, str]) -> None:
    assert "a Targa image" in refusal(hostile.save(hostile.drawing(), "TGA", **options))
    assert "a Windows cursor" in refusal(b"\0\0\2\0\1\0" + bytes(60))


RED, GREEN, BLUE, ALPHA = 0xFF0000, 0xFF00, 0xFF, 0xFF000000


def bmp(header_bytes: int, masks: tuple[int, ...], alpha: int) -> bytes:
    """The drawing as a 32-bit BMP from its top, with a header of 40, 56, 108 or 124 bytes."""
    pixels = np.asarray(hostile.drawing())
    height, width, _ = pixels.shape
    rows = np.dstack([pixels[..., ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    packing = 3 if masks else 0
    header = struct.pack("<IiiHHIIiiII", header_bytes, width, -height, 1, 32, packing, len(rows), 2835, 2835, 0, 0)
    in_header = struct.pack("<4I", *(*masks, 0, 0, 0, 0)[:4]) + b"BGRs" + bytes(64)
    header += in_header[: header_bytes - 40] if header_bytes > 40 else struct.pack(f"<{len(masks)}I", *masks)
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + rows


@pytest.mark.parametrize("alpha", [0, 255])
@pytest.mark.parametrize(
    ("header_bytes", "masks"),
    [
        (40, ()),
        (40, (RED, GREEN, BLUE)),
        (56, (RED, GREEN, BLUE, ALPHA)),
        (108, (RED, GREEN, BLUE, ALPHA)),
        (108, (RED, GREEN, BLUE, 0)),
        (124, (RED, GREEN, BLUE, ALPHA)),
    ],
)
def test_every_kind_of_32_bit_bmp_is_the_picture(header_bytes: int, masks: tuple[int, ...], alpha: int) -> None:
    assert np.array_equal(load_rgb(bmp(header_bytes, masks, alpha), LIMITS), np.asarray(hostile.drawing()))


def sixteen_bits(mode: str) -> bytes:
    """The drawing as a PNG of 16 bits with an opaque alpha channel: LA or RGBA."""
    pixels = np.asarray(hostile.drawing().convert(mode)).astype(">u2") * 257
    return hostile.png(hostile.SIZE, 16, 4 if mode == "LA" else 6, zlib.compress(hostile._rows(pixels)))


def animated(name: str, **options: object) -> bytes:
    """The drawing, then another frame."""
    turned = hostile.drawing().rotate(90)
    return hostile.save(hostile.drawing(), name, save_all=True, append_images=[turned], **options)


@pytest.mark.parametrize(
    "data",
    [
        sixteen_bits("RGBA"),
        animated("AVIF"),
        animated("HEIF"),
        animated("PNG", default_image=True),
        animated("MPO")[:-200],
        *(
            hostile.save(hostile.drawing(), name, icc_profile=b"\0\0\2\x30lcms" + bytes(150))
            for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
        ),
    ],
)
def test_rarer_variants_are_the_picture(data: bytes) -> None:
    assert difference(prepare(data, LIMITS, ["whole"])[0], hostile.drawing()) < ALIKE


def test_grey_of_16_bits_with_alpha_is_the_picture() -> None:
    seen = prepare(sixteen_bits("LA"), LIMITS, ["whole"])[0]
    assert difference(seen, hostile.drawing().convert("L")) < ALIKE
