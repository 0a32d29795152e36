"""Defines the protocol of a source: pages of `SourceImage`, and reading their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.errors import FetchError


@dataclass(frozen=True, slots=True)
class SourceImage:
    """A photo as listed by its source, before its bytes are read.

    Attributes:
        photo_id: unique within the source; the same in all listing formats of the source.
        member_id: the member who posted it; None if unknown.
        image_urls: URLs of the bytes, best first; the others are fallbacks.
        path: the file, if the source is on disk; it is used in place.
        split: "train", "validation" or "holdout" if the source defines splits.
        flag: the country code that the source shows for the member; used to check the label.
    """

    label: str
    photo_id: str
    member_id: str | None
    page_url: str
    image_urls: tuple[str, ...]
    path: Path | None = None
    split: str | None = None
    flag: str | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """A listed item without a usable photo, and the reason.

    Attributes:
        photo_id: None if the item has no valid id.
        reason: a few words, the same for all items with this problem.
    """

    photo_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a label's listing.

    Attributes:
        number: from 1; reading can be resumed at a page.
        last: whether this is the last page.
    """

    number: int
    images: tuple[SourceImage, ...]
    unusable: tuple[Unusable, ...] = ()
    last: bool = False


class Site(Protocol):
    """A source of labelled photos.

    Attributes:
        name: name of the source in the manifest.
        labels: in the order of the configuration.
        on_disk: the photos are local files, used in place: each listing is read to its end without pauses, and unlisted
            photos are gone. Otherwise listings are newest first.
    """

    name: str
    labels: tuple[str, ...]
    on_disk: bool

    def page_pause_s(self) -> float:
        """Minimum seconds between two pages that the source asks for; 0 by default. Raises `FetchError`."""

    def image_pause_s(self, image: SourceImage) -> float:
        """Minimum seconds between two images from the host of this one. Raises `FetchError`."""

    def pages(self, label: str, *, start: int = 1) -> Iterator[Page]:
        """The pages of a label's listing from page `start` on.

        Raises:
            FetchError: the listing cannot be fetched, or its format has changed.
        """

    def read(self, image: SourceImage) -> tuple[str, bytes]:
        """Read a photo; returns the URL it was found at, and its bytes.

        Raises:
            FetchError: it cannot be read; `SiteRefusalError` if the source forbids its use.
        """


class SiteRefusalError(FetchError):
    """The source forbids fetching or using a photo, by robots.txt or a header; the message says which."""
