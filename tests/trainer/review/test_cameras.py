"""The camera that a file names is read by the decoder's process, once for each photo."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from tests.trainer.collection import settings_for
from trainer.config import ImageSettings
from trainer.errors import ImageError
from trainer.photos.decode import Decoder
from trainer.photos.images import MAX_CAMERA
from trainer.review.cameras import load_cameras
from trainer.review.suspects import Placed


def jpeg(maker: object = None, model: object = None) -> bytes:
    image, exif, file = Image.new("RGB", (40, 50), "navy"), Image.Exif(), io.BytesIO()
    for tag, value in ((ExifTags.Base.Make, maker), (ExifTags.Base.Model, model)):
        if value is not None:
            exif[tag] = value
    image.save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder.in_bulk(ImageSettings(), n_children=1)) as found:
        yield found


@pytest.mark.parametrize(
    ("maker", "model", "camera"),
    [
        ("NIKON", "D90", "NIKON D90"),
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        (None, "Pixel 7\0", "Pixel 7"),
        ("x" * 100, "y", "x" * MAX_CAMERA),
        ("a\x1b[31mb\n", "\x07", "a[31mb"),
        (None, None, ""),
    ],
)
def test_a_camera_has_a_short_printable_name(decoder: Decoder, maker: object, model: object, camera: str) -> None:
    assert decoder.camera(jpeg(maker, model)) == camera


def test_what_is_no_photo_has_no_camera(decoder: Decoder) -> None:
    assert decoder.camera(b"GIF89a, but nothing more") == ""
    with pytest.raises(ImageError):
        decoder.camera(b"")


def test_cameras_are_read_once_and_a_lost_photo_is_left_out(decoder: Decoder, tmp_path: Path) -> None:
    settings, placed = settings_for(tmp_path, tmp_path), []
    for number, data in enumerate((jpeg("NIKON", "D90"), jpeg(), jpeg("Canon", "A1"))):
        (tmp_path / f"{number}.jpg").write_bytes(data)
        placed.append(Placed(hashlib.sha256(data).hexdigest(), tmp_path / f"{number}.jpg"))
    placed[2].path.unlink()
    looked: list[tuple[int, int]] = []
    for _ in range(2):
        found = load_cameras(placed[:2], settings, decoder, progress=lambda *step: looked.append(step))
        assert found == {placed[0].sha256: "NIKON D90"}
    assert looked == [(2, 2)]
    assert load_cameras(placed[2:], settings, decoder, progress=lambda *_: None) == {}
