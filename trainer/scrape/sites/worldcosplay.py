"""Reads the listings of Cure WorldCosplay, or of a server with the same API, by country and page.

Between 2012 and 2023, clients of the site have seen three item formats (`item_from` parses all three), numbers as
strings, and relative URLs. An invalid item is skipped with a reason. A page that is not a listing is an error: the site
must have changed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from trainer.config import ImageSettings, WorldCosplaySettings
from trainer.errors import FetchError
from trainer.scrape.sites.robots import Robots, check_tags
from trainer.scrape.sites.site import Page, SourceImage, Unusable
from trainer.web.fetch import Fetcher

logger = logging.getLogger(__name__)

LISTING_BYTES = 4 * 1024 * 1024
# Keys of a photo's URLs, from the best known URL format to the least known.
URL_KEYS = ("thumbnail_url_display", "img_url", "large_url", "sq300_url", "sq150_url")
SIZED_FILE = re.compile(r"-(?P<size>(sq)?\d{2,5}(x\d{2,5})?)(?P<extension>\.[A-Za-z]{3,4})$")
MAX_SIDE = re.compile(r"max-(\d{2,5})")
FLAG = re.compile(r"([A-Za-z]{2})\.\w+$")
GONE = frozenset({404, 410})


class WorldCosplaySite:
    """The source "worldcosplay"; see `Site`."""

    name = "worldcosplay"
    on_disk = False

    def __init__(self, settings: WorldCosplaySettings, limits: ImageSettings, fetcher: Fetcher) -> None:
        self.labels = tuple(settings.countries)
        self._settings = settings
        self._limits = limits
        self._fetcher = fetcher
        self._robots = Robots(fetcher)
        self._base_url = settings.base_url.rstrip("/")
        self._flags: dict[str, str] = {}  # label -> first flag in its listing

    def page_pause_s(self) -> float:
        return self._robots.crawl_delay_s(self._base_url)

    def image_pause_s(self, image: SourceImage) -> float:
        return self._robots.crawl_delay_s(image.image_urls[0])

    def pages(self, label: str, *, start: int = 1) -> Iterator[Page]:
        number = start
        while True:
            url = self._listing_url(label, number)
            body = self._fetch_listing(url, label, number)
            if body is None:
                return
            page = parse_listing(body, label=label, number=number, settings=self._settings)
            self._compare_flags(page)
            if page.images or page.unusable:
                yield page
            if page.last:
                return
            number += 1

    def read(self, image: SourceImage) -> tuple[str, bytes]:
        for url in image.image_urls[:-1]:
            try:
                return self._read_one(url)
            except FetchError as error:
                if error.status not in GONE:
                    raise
                logger.debug("not found, trying another size: %s", error)
        return self._read_one(image.image_urls[-1])

    def _read_one(self, url: str) -> tuple[str, bytes]:
        self._robots.check(url)
        fetched = self._fetcher.get(url, max_bytes=self._limits.max_bytes, allowed_hosts=allowed_hosts(self._settings))
        check_tags(fetched.headers, url)
        return url, fetched.body

    def _listing_url(self, label: str, number: int) -> str:
        pair = self._settings.countries[label]
        return (
            f"{self._base_url}/api/regions/{pair.region}/countries/{pair.country}/photos.json"
            f"?limit={self._settings.page_size}&p3_photo_list=true&page={number}"
        )

    def _fetch_listing(self, url: str, label: str, number: int) -> bytes | None:
        """Fetch a listing page; None for a page after the last, where the site may answer 404."""
        try:
            self._robots.check(url)
            fetched = self._fetcher.get(url, max_bytes=LISTING_BYTES)
            check_tags(fetched.headers, url)
        except FetchError as error:
            if error.status not in GONE:
                raise
            if number > 1:
                return None
            raise FetchError(
                f"{error}; check region and country in source.worldcosplay.countries.{label}", status=error.status
            ) from error
        return fetched.body

    def _compare_flags(self, page: Page) -> None:
        """Warn if flags do not fit the label: the configured ids may belong to another country.

        It warns once per label: when its listing has several flags, or starts with the flag of another label.
        """
        for image in page.images:
            if image.flag is None:
                continue
            if image.label not in self._flags:
                self._compare_with_other_labels(image.label, image.flag)
            first = self._flags.setdefault(image.label, image.flag)
            if first not in (image.flag, "mixed"):
                self._flags[image.label] = "mixed"
                logger.warning(
                    "mixed flags label=%s flags=%s,%s; check source.worldcosplay.countries.%s",
                    image.label, first, image.flag, image.label,
                )  # fmt: skip

    def _compare_with_other_labels(self, label: str, flag: str) -> None:
        for other, its_flag in self._flags.items():
            if its_flag == flag:
                logger.warning(
                    "two labels with the same flag labels=%s,%s flag=%s; check source.worldcosplay.countries",
                    other, label, flag,
                )  # fmt: skip


def allowed_hosts(settings: WorldCosplaySettings) -> frozenset[str]:
    """The hosts allowed for images; empty means any host."""
    if not settings.image_hosts:
        return frozenset()
    return frozenset({*(host.lower() for host in settings.image_hosts), urlsplit(settings.base_url).hostname or ""})


def parse_listing(body: bytes, *, label: str, number: int, settings: WorldCosplaySettings) -> Page:
    """Parse the JSON of a listing page.

    Args:
        number: of the requested page, from 1.

    Raises:
        FetchError: the body is not a listing, or the site reports an error.
    """
    where = f"{settings.base_url}: page {number} of {label}"
    try:
        # Texts are not used, so invalid characters in a title must not fail the page.
        envelope = json.loads(body.decode("utf-8-sig", errors="replace"), strict=False)
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{where} is not JSON; the site may have changed, or shows a notice") from error
    if not isinstance(envelope, dict):
        raise FetchError(f"{where} is JSON, but not a listing; the site may have changed")
    if not _is_false(envelope.get("has_error")) and envelope.get("has_error") is not None:
        raise FetchError(f"{where}: the site reports has_error: {str(envelope['has_error'])[:40]}; try again later")
    items = envelope.get("list")
    if not isinstance(items, list):
        raise FetchError(f"{where} has no `list`; the site may have changed")
    found = [item_from(item, label=label, settings=settings) for item in items]
    unique = {(item.photo_id or index): item for index, item in reversed(list(enumerate(found)))}
    kept = list(reversed(unique.values()))
    return Page(
        number=number,
        images=tuple(item for item in kept if isinstance(item, SourceImage)),
        unusable=tuple(item for item in kept if isinstance(item, Unusable)),
        last=not items or not _has_next(envelope.get("pager")),
    )


def item_from(item: object, *, label: str, settings: WorldCosplaySettings) -> SourceImage | Unusable:
    """Parse one item of a listing, in any of the site's formats: slim, full or flat."""
    entry = _mapping(item)
    photo = _mapping(entry.get("photo")) or entry
    member = _mapping(entry.get("member")) or _mapping(photo.get("member"))
    photo_id = _number(photo.get("id"))
    if photo_id is None:
        return Unusable(None, "no photo id")
    if _is_false(photo.get("viewable")):
        return Unusable(photo_id, "not viewable")
    listed = [url for key in URL_KEYS if (url := _url(settings.base_url, photo.get(key)))]
    if not listed:
        return Unusable(photo_id, "no image address")
    hosts = allowed_hosts(settings)
    urls = [url for url in listed if not hosts or _has_host(url, hosts)]
    if not urls:
        host = urlsplit(listed[0]).hostname
        return Unusable(photo_id, f"image on {host}, which source.worldcosplay.image_hosts does not name")
    return SourceImage(
        label=label,
        photo_id=photo_id,
        member_id=_number(member.get("id")) or next(filter(None, map(_member_id, urls)), None),
        page_url=_url(settings.base_url, photo.get("url")) or f"{settings.base_url.rstrip('/')}/photo/{photo_id}",
        image_urls=_by_preference(urls, settings.image_size),
        flag=_flag(member.get("national_flag_url")),
    )


def resized(url: str, size: str) -> str | None:
    """The URL of the same photo in another size, e.g. "350x600"; None if the URL does not contain a size.

    `/max-740/` in a path means that the original is not larger, so larger sizes do not exist.
    """
    parts = urlsplit(url)
    named = SIZED_FILE.search(parts.path)
    limit = MAX_SIDE.search(parts.path)
    if not named or (limit and max(map(int, size.split("x"))) > int(limit[1])):
        return None
    path = f"{parts.path[: named.start()]}-{size}{named['extension']}"
    return parts._replace(path=path).geturl()


def _by_preference(urls: list[str], size: str) -> tuple[str, ...]:
    """URLs with the configured size first, then those of the listing: not every photo exists in every size."""
    wanted = next(filter(None, (resized(url, size) for url in urls)), None)
    return tuple(dict.fromkeys([*([wanted] if wanted else []), *urls[:2]]))


def _has_next(pager: object) -> bool:
    """Whether a pager has a next page; without a pager, the listing ends with an empty page."""
    return not isinstance(pager, dict) or "next_page" not in pager or _number(pager["next_page"]) is not None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_false(value: object) -> bool:
    """Whether a value means false: false, 0, "0", "false" or ""."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "0", "false")
    return isinstance(value, int | float) and value == 0


def _number(value: object) -> str | None:
    """An id given as 17, 17.0 or "17", as "17"; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return str(int(text)) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _url(base_url: str, value: object) -> str | None:
    """The absolute http(s) URL of a value; None if it is not a URL."""
    if not isinstance(value, str) or not value.strip() or len(value) > 2000 or not value.isprintable():
        return None
    try:
        url = urljoin(base_url + "/", value.strip())
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return url if usable else None


def _has_host(url: str, hosts: frozenset[str]) -> bool:
    parts = urlsplit(url)
    return bool({parts.hostname, f"{parts.hostname}:{parts.port}"} & hosts)


def _member_id(url: str) -> str | None:
    """The member id in an image's URL, before the file name."""
    folders = [part for part in urlsplit(url).path.split("/")[:-1] if not MAX_SIDE.fullmatch(part)]
    return _number(folders[-1]) if folders else None


def _flag(value: object) -> str | None:
    found = FLAG.search(value) if isinstance(value, str) else None
    return found[1].lower() if found else None
