"""Reads a source and stores new photos, one page of each label in turn, so that an interrupted scrape is balanced.

Known photos are not fetched again. Listings are newest first. Each is read until it has only known photos; then reading
continues at the page where an earlier scrape stopped, if any.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from trainer.config import Settings
from trainer.errors import FetchError
from trainer.photos.manifest import Manifest, Photo, Refusal
from trainer.photos.photo_files import open_files
from trainer.scrape.ingest import TROUBLE, Collection, Decoder, Examined, examine
from trainer.scrape.sites.site import Page, Site, SourceImage

logger = logging.getLogger(__name__)

# Stop after this many images in a row that cannot be fetched or are web pages: the image host is down.
MAX_FAILURES = 10
# Stop a listing after this many refused photos in a row: the cause is probably not the photos.
MAX_REFUSED = 40
# Stop a listing after this many pages in a row without a new photo: the pages repeat.
MAX_REPEATS = 3


@dataclass(slots=True)
class ScrapeReport:
    """The result of a scrape, in numbers of photos.

    Attributes:
        goal: maximum for each label; None means no limit.
        held: by label, all stored photos.
        kept: by label, newly stored photos.
        known: by label, listed photos that did not have to be fetched.
        refused: by (label, reason).
        vanished: by label, deleted photos that the source no longer has.
        problems: errors that stopped a listing or the scrape; empty if there were none.
    """

    labels: tuple[str, ...]
    goal: int | None = None
    held: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    vanished: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def n_refused(self, label: str) -> int:
        return sum(n for (name, _), n in self.refused.items() if name == label)


OnPhoto = Callable[[ScrapeReport], object]


@dataclass(slots=True)
class _Listing:
    """The state of reading one label's listing.

    Attributes:
        unread_from: first page that no earlier scrape has read; None if no more pages are expected.
        catching_up: reading the pages before `unread_from`, with known and newly posted photos.
        number: number of the last page read; 0 before the first.
        known_in_a_row: photos since the last stored one.
        refused_in_a_row: photos since the last stored or known one.
        repeats: pages in a row with only photos that this scrape has already seen.
    """

    label: str
    pages: Iterator[Page]
    unread_from: int | None
    catching_up: bool
    number: int = 0
    known_in_a_row: int = 0
    refused_in_a_row: int = 0
    repeats: int = 0
    seen: set[str] = field(default_factory=set)


class _SourceDownError(FetchError):
    """The source does not respond at the moment."""


class Scrape:
    """One run over a source."""

    def __init__(
        self,
        site: Site,
        manifest: Manifest,
        settings: Settings,
        decoder: Decoder,
        *,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_photo: OnPhoto | None = None,
    ) -> None:
        """`on_photo` is called with the report after each photo."""
        self._site = site
        self._manifest = manifest
        self._collection = Collection(manifest, open_files(settings), settings.data_dir, site.name)
        self._decoder = decoder
        self._settings = settings.scrape
        self._sleep = sleep
        self._monotonic = monotonic
        self._now = now
        self._on_photo = on_photo
        self._next_page_at = 0.0
        self._failures = 0
        self._listing_failed = False
        goal = None if site.on_disk else settings.scrape.photos_per_label
        self.report = ScrapeReport(labels=site.labels, goal=goal, held=self._collection.held)

    def run(self) -> ScrapeReport:
        """Read all listings, one page of each in turn. If the source fails, stored photos are not changed.

        Raises:
            StorageError: the disk is full, the manifest cannot be written, or a bucket does not answer; photos stored
                so far are complete.
        """
        self._collection.clean_up()
        if self._site.on_disk:
            self._manifest.clear_refusals(self._site.name)  # reading a file again is cheap, and it may be fixed now
            self._drop_vanished()
        listings = [self._open(label) for label in self._site.labels if self._n_missing(label)]
        pool = ThreadPoolExecutor(self._settings.concurrent_images, thread_name_prefix="image")
        try:
            while listings:
                listings = [listing for listing in listings if self._read_page(listing, pool)]
        except _SourceDownError as error:
            self.report.problems.append(str(error))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self._log()
        return self.report

    def _open(self, label: str) -> _Listing:
        unread_from = self._manifest.next_page(self._site.name, label)
        return _Listing(label, self._site.pages(label), unread_from, catching_up=unread_from != 1)

    def _n_missing(self, label: str) -> int:
        """The number of photos of a label still to fetch."""
        return sys.maxsize if self.report.goal is None else max(self.report.goal - self.report.held[label], 0)

    def _read_page(self, listing: _Listing, pool: ThreadPoolExecutor) -> bool:
        """Store the new photos of a listing's next page; returns False when the listing is done."""
        try:
            self._pause_before_page()
            page = next(listing.pages, None)
        except FetchError as error:
            return self._give_up(listing, error)
        self._listing_failed = False
        if page is None:
            return False if self._site.on_disk else self._end(listing)
        listing.number = page.number
        new = self._select_images(listing, page)
        n_kept, n_left = self._keep(listing, new, pool)
        if self._site.on_disk:
            return not page.last
        if n_left:  # the label is full: a later scrape with a higher goal continues here
            self._manifest.set_next_page(self._site.name, listing.label, page.number)
            return False
        if listing.refused_in_a_row >= MAX_REFUSED:
            self.report.problems.append(self._explain_refusals(listing))
            return False
        if page.last or listing.repeats >= MAX_REPEATS:
            return self._end(listing)
        if (n_kept or not listing.catching_up) and not listing.refused_in_a_row:
            self._manifest.set_next_page(self._site.name, listing.label, page.number + 1)
        if listing.catching_up and listing.known_in_a_row >= self._settings.stop_after_known:
            return self._skip_to_unread(listing, page.number + 1)
        return self._n_missing(listing.label) > 0

    def _give_up(self, listing: _Listing, error: FetchError) -> bool:
        """Stop a listing whose next page cannot be fetched; raises `_SourceDownError` if others fail too.

        A server may fail repeatedly at one page of one listing; the other listings must still be read.
        """
        problem = f"{listing.label}: {error}"
        is_passing = error.retry_after_s is not None
        if is_passing and self._listing_failed:
            self.report.problems.pop()  # report the problem once
            raise _SourceDownError(problem) from error
        if is_passing and (error.status is None or error.status < 500):  # no network, or too many requests
            raise _SourceDownError(problem) from error
        self._listing_failed = is_passing
        self.report.problems.append(problem)
        return False

    def _explain_refusals(self, listing: _Listing) -> str:
        reasons = {reason: n for (label, reason), n in self.report.refused.items() if label == listing.label}
        most = max(reasons, key=lambda reason: reasons[reason])
        return (
            f"{listing.label}: {listing.refused_in_a_row} photos in a row were refused, most often: {most}. "
            "The listing was stopped; the next scrape continues from there"
        )

    def _pause_before_page(self) -> None:
        if self._site.on_disk:
            return
        self._sleep(max(self._next_page_at - self._monotonic(), 0.0))
        pause_s = max(self._settings.page_pause_s, self._site.page_pause_s())
        self._next_page_at = self._monotonic() + pause_s

    def _select_images(self, listing: _Listing, page: Page) -> list[tuple[SourceImage, Photo | None]]:
        """Select the photos of a page to read, each with its row if it is stored and has changed."""
        new = []
        fresh = [image for image in page.images if image.photo_id not in listing.seen]
        listing.repeats = 0 if fresh or page.unusable else listing.repeats + 1
        listing.seen.update(image.photo_id for image in fresh)
        listing.known_in_a_row += len(page.images) - len(fresh) + len(page.unusable)
        listing.refused_in_a_row += len(page.unusable)
        for unusable in page.unusable:
            self.report.refused[listing.label, unusable.reason] += 1
        for image in fresh:
            known = self._manifest.photo(self._site.name, image.photo_id)
            if known and not image.path and known.label not in self._site.labels:  # the label was renamed
                self._collection.rename(known, image.label)
                listing.known_in_a_row = listing.refused_in_a_row = 0
                self.report.known[listing.label] += 1
            elif _is_unchanged(known, image) if known and image.path else self._knows(image):
                self.report.known[listing.label] += 1
                listing.known_in_a_row += 1
                listing.refused_in_a_row = 0
            else:
                new.append((image, known))
        return new

    def _knows(self, image: SourceImage) -> bool:
        return bool(
            self._manifest.knows(
                self._site.name, image.photo_id, member_id=image.member_id, image_url=image.image_urls[0]
            )
        )

    def _keep(
        self, listing: _Listing, new: list[tuple[SourceImage, Photo | None]], pool: ThreadPoolExecutor
    ) -> tuple[int, int]:
        """Read and store photos; returns the numbers of photos stored, and skipped because the label is full."""
        n_kept = 0
        while new and (room := self._n_missing(listing.label)):
            batch, new = new[:room], new[room:]
            futures = [pool.submit(self._examine, image) for image, _ in batch]
            for (image, known), future in zip(batch, futures, strict=True):
                result = self._collection.admit(image, future.result(), known=known)
                n_kept += self._count(listing, result)
        return n_kept, len(new)

    def _examine(self, image: SourceImage) -> Examined | Refusal:
        """Read one image on a pool thread, then pause for as long as its host asks."""
        found = examine(self._site, image, self._decoder, now=self._now())
        if image.path is None:
            try:
                asked_s = self._site.image_pause_s(image) * self._settings.concurrent_images
            except FetchError:
                asked_s = 0.0  # the image was not fetched for the same reason
            self._sleep(max(self._settings.image_pause_s, asked_s))
        return found

    def _count(self, listing: _Listing, result: Photo | Refusal) -> bool:
        """Count one result; returns whether a photo was stored."""
        kept = isinstance(result, Photo)
        is_trouble = isinstance(result, Refusal) and result.reason in TROUBLE and not self._site.on_disk
        self._failures = self._failures + 1 if is_trouble else 0
        if isinstance(result, Refusal):
            self.report.refused[listing.label, result.reason] += 1
        else:
            self.report.kept[listing.label] += 1
        listing.known_in_a_row = 0 if kept else listing.known_in_a_row + 1
        listing.refused_in_a_row = 0 if kept else listing.refused_in_a_row + 1
        if self._on_photo:
            self._on_photo(self.report)
        if self._failures >= MAX_FAILURES and isinstance(result, Refusal):
            raise _SourceDownError(f"{self._failures} images in a row could not be fetched; the last: {result.detail}")
        return kept

    def _skip_to_unread(self, listing: _Listing, next_number: int) -> bool:
        """Continue at the first page not read by earlier scrapes; returns False if there is none."""
        unread_from = listing.unread_from
        self._manifest.set_next_page(self._site.name, listing.label, unread_from)
        if unread_from is None:
            return False
        listing.catching_up = False
        listing.known_in_a_row = 0
        # One page earlier: if photos were deleted since then, the others have moved up.
        if unread_from - 1 > next_number:
            listing.pages = self._site.pages(listing.label, start=unread_from - 1)
        return True

    def _end(self, listing: _Listing) -> bool:
        """Record that a listing was read to its end; the next scrape checks again, in case of a site error."""
        if not listing.seen:
            self.report.problems.append(f"{listing.label}: the listing is empty; stored photos are kept")
        else:
            last = listing.number - listing.repeats
            self._manifest.set_next_page(self._site.name, listing.label, last + 1)
        return False

    def _drop_vanished(self) -> None:
        """Delete photos whose files are gone from the source."""
        listed = {
            image.path for label in self._site.labels for page in self._site.pages(label) for image in page.images
        }
        for photo in list(self._manifest.photos(self._site.name)):
            if photo.path not in listed:
                self._collection.remove(photo)
                self.report.vanished[photo.label] += 1

    def _log(self) -> None:
        for label in self._site.labels:
            counts = (counter[label] for counter in (self.report.kept, self.report.known, self.report.held))
            logger.info(
                "scraped label=%s kept=%d known=%d held=%d refused=%d", label, *counts, self.report.n_refused(label)
            )


def _is_unchanged(known: Photo, image: SourceImage) -> bool:
    """Whether a file that is used in place has not changed since it was read."""
    if image.path is None or known.path != image.path or known.label != image.label or known.split != image.split:
        return False
    try:
        found = image.path.stat()
    except OSError:
        return False
    changed_at = max(found.st_mtime, found.st_ctime)  # ctime also detects a file that was replaced
    return found.st_size == known.n_bytes and changed_at < known.fetched_at.timestamp()
