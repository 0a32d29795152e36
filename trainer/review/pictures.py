"""Pictures of the review page: photos, decoded within the decoder's walls, and where the champion looked."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image

from trainer.config import Settings
from trainer.errors import ImageError, ModelError
from trainer.photos.decode import Decoder
from trainer.photos.manifest import Photo
from trainer.photos.photo_files import open_files, read_photo
from trainer.photos.views import WHOLE, Pixels, is_mirrored, is_of_figure, view_box
from trainer.registry.serving import Classifier
from trainer.review.suspects import Placed

LARGE_PX, SMALL_PX = 900, 180
HOT = (255, 80, 0)
OPACITY = 0.6


@dataclass(eq=False)
class Pictures:
    """JPEGs of stored photos; every method may be called from any thread.

    Attributes:
        classifier: the champion; None without one.
    """

    settings: Settings
    decoder: Decoder
    classifier: Classifier | None = field(init=False, default=None)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        try:
            self.classifier = Classifier.load(self.settings)
        except ModelError:
            self.classifier = None
        self.photo = lru_cache(maxsize=64)(self._photo)

    def _photo(self, photo: Photo, side_px: int, with_heat: bool = False) -> bytes:
        """A JPEG that fits into a square.

        Raises:
            ImageError: the photo cannot be read, or there is no champion for `with_heat`.
        """
        data = read_photo(Placed(photo.sha256, self.settings.data_dir / photo.path), open_files(self.settings))
        pixels = self.decoder.thumbnail(data, max_width=side_px, max_height=side_px)
        picture = Image.fromarray(self._heated(data, pixels) if with_heat else pixels)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        return file.getvalue()

    def _heated(self, data: bytes, pixels: Pixels) -> Pixels:
        if self.classifier is None:
            raise ImageError("there is no champion yet", reason="unsupported")
        view = self.classifier.view
        prepared = self.decoder.prepare(data, view)
        with self._lock:
            heatmap = self.classifier.predict(prepared[None])[0].heatmap
        height, width = pixels.shape[:2]
        crop = (self.decoder.figures(data).box if is_of_figure(view) else None) or WHOLE
        left, top, right, bottom = view_box((width, height), view, crop)
        seen = np.ascontiguousarray(heatmap[:, ::-1] if is_mirrored(view) else heatmap, dtype=np.float32)
        patch = Image.fromarray(seen).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        heat = np.zeros((height, width, 1), dtype=np.float32)
        heat[top:bottom, left:right, 0] = np.asarray(patch).clip(0, 1)
        mixed = pixels * (1 - OPACITY * heat) + np.array(HOT) * (OPACITY * heat)
        heated: Pixels = mixed.astype(np.uint8)
        return heated
