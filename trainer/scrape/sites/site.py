"""The protocol that every source follows: pages of `SourceImage`, and how their bytes are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.errors import FetchError


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One photo as its source lists it, before its bytes are read.

    Attributes:
        photo_id: unique within the source; the same in every shape in which the source may list the photo.
        member_id: who posted it; None where the source has no members or does not say.
        image_urls: where the bytes are, the best first; the others are for when that one is gone.
        path: the file, where the source is on disk; such a photo is used in place.
        split: "train", "validation" or "holdout" where the source brings its own split.
        flag: the country code that the source shows beside the member, a cross-check of the label.
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
        photo_id: None when not even that could be read.
        reason: a few words, the same for all of a kind.
    """

    photo_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a label's listing.

    Attributes:
        number: from 1; a listing can be taken up again at a page.
        last: there is no page after it.
    """

    number: int
    images: tuple[SourceImage, ...]
    unusable: tuple[Unusable, ...] = ()
    last: bool = False


class Site(Protocol):
    """A source of labelled photos.

    Attributes:
        name: what the manifest files its photos under.
        labels: in the order of the configuration.
        on_disk: its photos lie on this machine and are used in place: each listing is read to its end without pauses,
            and what it lacks is gone. Otherwise listings begin with what was posted last.
    """

    name: str
    labels: tuple[str, ...]
    on_disk: bool

    def page_pause_s(self) -> float:
        """Seconds between two pages that the source asks for at least; 0 when it does not say. Raises `FetchError`."""

    def image_pause_s(self, image: SourceImage) -> float:
        """As `page_pause_s`, between two images at the place where this one is."""

    def pages(self, label: str, *, start: int = 1) -> Iterator[Page]:
        """The pages of a label's listing from page `start` on.

        Raises:
            FetchError: the listing cannot be had, or is not what it was.
        """

    def read(self, image: SourceImage) -> tuple[str, bytes]:
        """The URL that a photo was found at, and its bytes.

        Raises:
            FetchError: it cannot be had; `SiteRefusalError` when the source does not want it to be used.
        """


class SiteRefusalError(FetchError):
    """The source forbids a fetch or a use by robots.txt or a header; the message says which."""
