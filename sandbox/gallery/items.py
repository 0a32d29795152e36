"""Builds the JSON of a listing, with the site's mix of strings and numbers and its three item formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sandbox.gallery.collection import KNOWN_FLAGS, Photo

Shape = Literal["slim", "full", "flat", "mixed"]
SHAPES: tuple[Shape, ...] = ("slim", "full", "flat")
MAX_PAGE = 24


def image_path(photo: Photo, size: str) -> str:
    """The path of a photo's file in a size ("175", "350x600", ...) at the image host."""
    return f"/{photo.member.member_id}/{photo.letters}-{size}.jpg"


def envelope(
    photos: Sequence[Photo], *, page: int, limit: int, shape: Shape, host: str, has_error: int
) -> dict[str, Any]:
    """Build one page of a listing.

    Args:
        photos: all photos of the listing, newest first.
        page: from 1; a page past the end has an empty list.
        limit: items per page; the site's maximum is 24.
        shape: format of the items; "mixed" alternates the three.
        host: prefix of image paths: a base URL without trailing slash, or "" for relative URLs.
        has_error: 0, or the site's value for an error.
    """
    limit = max(1, min(limit, MAX_PAGE))
    shown = photos[(page - 1) * limit : page * limit]
    last = max(1, -(-len(photos) // limit))
    return {
        "pager": {
            "next_page": page + 1 if page < last else None,
            "previous_page": page - 1 if page > 1 else None,
            "current_page": str(page),
            "indexes": [str(number) if number == page else number for number in _window(page, last)],
        },
        "has_error": has_error,
        "list": [
            item(photo, SHAPES[number % 3] if shape == "mixed" else shape, host) for number, photo in enumerate(shown)
        ],
    }


def item(photo: Photo, shape: Shape, host: str) -> dict[str, Any]:
    """Build one item of a listing, in one of the three formats."""
    if shape == "slim":
        return {"photo": _slim(photo, host)}
    if shape == "flat":
        return _flat(photo, host)
    return {
        "character": {"name": photo.subject},
        "member": _member(photo),
        "photo": _slim(photo, host) | _more(photo, host),
    }


def _slim(photo: Photo, host: str) -> dict[str, Any]:
    return {
        "id": photo.photo_id,
        "url": f"/photo/{photo.photo_id}",
        "subject": photo.subject,
        "sq150_url": host + image_path(photo, "175"),
        "sq300_url": host + image_path(photo, "350"),
        "viewable": True,
    }


def _more(photo: Photo, host: str) -> dict[str, Any]:
    return {
        "thumbnail_url_display": host + image_path(photo, "350x600"),
        "thumbnail_width": "350",
        "thumbnail_height": round(350 / photo.aspect),
        "large_url": host + image_path(photo, "740"),
        "orientation": "portrait" if photo.aspect < 1 else "landscape",
        "good_cnt": str(photo.likes),
        "created_at": photo.created_at.strftime("%Y-%m-%d %H:%M"),
    }


def _member(photo: Photo) -> dict[str, Any]:
    member = photo.member
    return {
        "id": member.member_id,
        "global_name": member.name,
        "nickname": member.name.lower(),
        "url": f"/member/{member.member_id}",
        "national_flag_url": f"/img/flags/{KNOWN_FLAGS.get(member.label, 'zz')}.gif",
    }


def _flat(photo: Photo, host: str) -> dict[str, Any]:
    return {
        "id": photo.photo_id,
        "subject": photo.subject,
        "img_url": host + image_path(photo, "350x600"),
        "tag_arr": [{"id": "12", "name": photo.scene.costume.headgear}],
        "member": {"id": str(photo.member.member_id), "global_name": photo.member.name},
    }


def _window(page: int, last: int) -> list[int]:
    """The page numbers in the pager: up to five around the current page."""
    first = max(1, min(page - 2, last - 4))
    return list(range(first, min(last, first + 4) + 1))
