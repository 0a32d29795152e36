"""Stores media attachments: checks and processes uploads, and serves their files."""

from __future__ import annotations

import functools
import io
import warnings
from datetime import timedelta

import pillow_heif
from PIL import Image, ImageOps

from sandbox.instance.errors import ApiError, invalid, not_found
from sandbox.instance.host import Host
from sandbox.instance.records import Account, Media

# Source: app/models/media_attachment.rb of Mastodon 4.5.
KEPT_PIXELS = 3840 * 2160  # larger uploads are scaled down
PREVIEW_PIXELS = 640 * 360
JPEG_QUALITY = 90
UPLOAD_TTL = timedelta(days=1)
STILL_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
CONVERTED_FORMATS = {"HEIF", "AVIF"}  # converted to JPEG
MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom\x00\x00\x00\x08free"  # a video without frames
EXTENSIONS = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
}


class MediaStore:
    """The attachments of an instance."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_id: dict[int, Media] = {}

    def upload(self, account: Account, data: bytes, description: str, *, wait: bool) -> Media:
        """Store an upload as the API does.

        Args:
            wait: process it before returning, ignoring `media_processing_s` (as `POST /api/v1/media` does).

        Raises:
            ApiError: 422 for an invalid file.
        """
        self.check_description(description)
        type_, content_type, kept, preview = _process(data, self._host.settings.image_max_pixels)
        limit = self._host.settings.image_max_bytes if type_ == "image" else self._host.settings.video_max_bytes
        if len(data) > limit:
            raise invalid(f"File file size must be less than {limit // 1024**2} MB")
        media = self._add(account, type_, content_type, kept, description)
        media.preview = preview
        media.width, media.height = _size(kept if type_ == "image" else preview or b"")
        settings = self._host.settings
        if not wait and (settings.media_processing_s > 0 or type_ != "image"):
            media.ready_at = self._host.clock() + settings.media_processing_s
            media.failed = settings.media_processing_fails
        return media

    def attach(
        self,
        account: Account,
        data: bytes,
        content_type: str = "image/jpeg",
        description: str = "",
        *,
        type: str | None = None,  # noqa: A002 - the API's own word
        preview: bytes | None = None,
        url: str | None = None,
        remote_url: str | None = None,
    ) -> Media:
        """Store any bytes as an attachment, without checks or changes.

        Args:
            content_type: served with the file; it may be wrong.
            type: type of the entity; None derives it from `content_type`.
            preview: the preview image; None makes one from `data`, or serves `data` if that fails.
            url: a URL that replaces the instance's own URL of `data`.
        """
        main = content_type.split("/")[0]
        media = self._add(
            account, type or (main if main in ("video", "audio") else "image"), content_type, data, description
        )
        media.preview, media.url, media.remote_url = preview, url, remote_url
        media.width, media.height = _size(data)
        preview_of(media)
        return media

    def _add(self, account: Account, type_: str, content_type: str, data: bytes, description: str) -> Media:
        with self._host.lock:
            media = Media(self._host.next_id(), account, type_, content_type, data, description, self._host.now())
            self._by_id[media.id] = media
            return media

    def get(self, media_id: int) -> Media:
        """The attachment with an id, also if attached. Raises ApiError 404 if there is none."""
        media = self._by_id.get(media_id)
        if media is None:
            raise not_found()
        return media

    def get_unattached(self, account: Account, media_id: int) -> Media:
        """An account's own attachment that is not attached yet. Raises ApiError 404 for any other."""
        media = self._by_id.get(media_id)
        if media is None or not self._is_free(media, account):
            raise not_found()
        return media

    def _is_free(self, media: Media, account: Account) -> bool:
        """Whether a new status may use an attachment; unused uploads expire after a day."""
        fresh = self._host.now() - media.created_at < UPLOAD_TTL
        return media.account is account and media.status_id is None and fresh

    def take(self, account: Account, media_ids: list[int]) -> list[Media]:
        """Take attachments for a new status.

        Raises:
            ApiError: 422 for too many, or for one that is missing, already attached, or still processed.
        """
        limit = self._host.settings.max_media_attachments
        if len(media_ids) > limit:
            raise ApiError(422, f"Cannot attach more than {limit} files")
        found = [self._by_id.get(media_id) for media_id in media_ids]
        taken = [media for media in found if media and self._is_free(media, account)]
        missing = set(media_ids) - {media.id for media in taken}
        if missing:
            ids = ", ".join(str(media_id) for media_id in sorted(missing))
            raise ApiError(422, f"Media {ids} not found or already attached to another post")
        if len(taken) > 1 and any(media.type in ("video", "audio", "gifv") for media in taken):
            raise ApiError(422, "Cannot attach a video to a post that already contains images")
        if any(self.is_processing(media) or media.failed for media in taken):
            raise ApiError(422, "Cannot attach files that have not finished processing. Try again in a moment!")
        return taken

    def delete(self, media: Media) -> None:
        with self._host.lock:
            self._by_id.pop(media.id, None)

    def is_processing(self, media: Media) -> bool:
        return self._host.clock() < media.ready_at

    def check_description(self, description: str) -> None:
        limit = self._host.settings.max_description_characters
        if len(description) > limit:
            raise invalid(f"Description is too long (maximum is {limit} characters)")


def file_name(media: Media, kind: str) -> str:
    """The file name in an attachment's URL; `kind` is original or small."""
    content_type = media.content_type if kind == "original" else preview_of(media)[1]
    return f"{media.id:x}.{EXTENSIONS.get(content_type, 'bin')}"


def preview_of(media: Media) -> tuple[bytes, str]:
    """The preview image of an attachment, and its content type."""
    if media.preview is None:
        media.preview = _preview(media.data) or media.data
        media.preview_type = media.content_type if media.preview is media.data else "image/jpeg"
    return media.preview, media.preview_type


def _open(data: bytes) -> Image.Image:
    """Open an image, reading only the header. Raises ApiError 422 if it is not an image."""
    _register_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data))
    except Exception as error:
        raise ApiError(422, "File type of uploaded media could not be verified") from error


@functools.cache
def _register_heif() -> None:
    pillow_heif.register_heif_opener()


def _size(data: bytes) -> tuple[int, int] | tuple[None, None]:
    try:
        return _open(data).size
    except ApiError:
        return None, None


def _process(data: bytes, max_pixels: int) -> tuple[str, str, bytes, bytes | None]:
    """Process an upload; returns type, content type, stored bytes, and preview."""
    if not data:
        raise invalid("File can't be blank")
    if (other := _video_or_audio(data)) is not None:
        return other[0], other[1], data, _encode(Image.new("RGB", (640, 360), "#333"), "JPEG")
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise ApiError(422, f"{width}x{height} images are not supported")
    if image.format not in STILL_FORMATS and image.format not in CONVERTED_FORMATS:
        raise invalid("File content type is invalid, File is invalid")
    if getattr(image, "n_frames", 1) > 1 and image.format == "GIF":
        return "gifv", "video/mp4", MP4, _preview(data)
    kept_format = image.format if image.format in STILL_FORMATS else "JPEG"
    try:
        turned = ImageOps.exif_transpose(image)
        turned.thumbnail(_within(turned.size, KEPT_PIXELS))
        untouched = kept_format == image.format and turned.size == image.size and not image.getexif()
        kept = data if untouched else _encode(turned, kept_format)
    except (OSError, ValueError, SyntaxError) as error:
        raise ApiError(422, "Error processing thumbnail for uploaded media") from error
    return "image", STILL_FORMATS[kept_format], kept, _preview(kept)


def _video_or_audio(data: bytes) -> tuple[str, str] | None:
    """Type and content type of a video or audio file, by its first bytes; None for other files."""
    if data[4:8] == b"ftyp" and data[8:11] in (b"mp4", b"iso", b"M4V", b"avc", b"qt "):
        return "video", "video/mp4"
    if data[:4] == b"\x1aE\xdf\xa3":
        return "video", "video/webm"
    if data[:4] == b"OggS":
        return "audio", "audio/ogg"
    if data[:3] == b"ID3" or data[:2] in (b"\xff\xfb", b"\xff\xf3"):
        return "audio", "audio/mpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio", "audio/wav"
    return None


def _preview(data: bytes) -> bytes | None:
    """Make a small JPEG; None if the bytes are not an image, or an image too large to decode."""
    try:
        image = _open(data)
        if image.width * image.height > KEPT_PIXELS * 4:
            return None
        image.draft("RGB", _within(image.size, PREVIEW_PIXELS))
        small = ImageOps.exif_transpose(image)
        small.thumbnail(_within(small.size, PREVIEW_PIXELS))
        return _encode(small, "JPEG")
    except (ApiError, OSError, ValueError, SyntaxError):
        return None


def _within(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """The largest size with the same proportions and at most `max_pixels`."""
    scale = min(1.0, (max_pixels / (size[0] * size[1])) ** 0.5)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _encode(image: Image.Image, format_: str) -> bytes:
    out = io.BytesIO()
    (image.convert("RGB") if format_ == "JPEG" else image).save(out, format_, quality=JPEG_QUALITY)
    return out.getvalue()
