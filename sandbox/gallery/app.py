"""Serves the gallery as a web site: listings, photos, robots.txt, and a simple HTML page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandbox.faults import Faults
from sandbox.gallery.collection import Gallery, Photo
from sandbox.gallery.files import ORIGINAL_PX, render, render_square
from sandbox.gallery.items import Shape, envelope
from sandbox.misbehaviour import FaultMiddleware

DEFAULT_LIMIT = 16
SQUARE_PX = 175  # sizes up to this are square icons
ROBOTS_TXT = "User-agent: *\nAllow: /\n"

_FILE = re.compile(r"(?P<letters>[a-z]{40})-(?P<width>\d{2,4})(x(?P<height>\d{2,4}))?\.jpg")
_PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)


@dataclass(slots=True)
class Options:
    """Options of the site; they can be changed while it runs.

    Attributes:
        shape: format of a listing's items.
        relative_urls: whether image URLs have no scheme and host.
        has_error: the field of the envelope; if not 0, the list is empty.
        uploads_per_page: photos added after each read of a listing page, so that later pages shift.
        robots_txt: None means 404.
        robots_tag: value of X-Robots-Tag on every picture, "" for none.
    """

    shape: Shape = "full"
    relative_urls: bool = False
    has_error: int = 0
    uploads_per_page: int = 0
    robots_txt: str | None = ROBOTS_TXT
    robots_tag: str = ""


def create_app(gallery: Gallery, options: Options | None = None, faults: Faults | None = None) -> Starlette:
    """Create the web application of a gallery; run it with `sandbox.server.serve`.

    Args:
        faults: faults to apply; None means a new object, set with `POST /sandbox/faults`.
    """
    site = _Site(gallery, options or Options())
    listing = "/api/regions/{region:int}/countries/{country:int}/"
    routes = [
        Route(prefix + listing + name, site.listing)
        for prefix in ("", "/{language}")
        for name in ("photos", "photos.json")
    ]
    routes += [
        Route("/", site.front),
        Route("/robots.txt", site.robots),
        Route("/photo/{photo_id:int}", site.photo),
        Route("/{member_id:int}/{file}", site.picture),
        Route("/max-{max_px:int}/{member_id:int}/{file}", site.picture),
    ]
    return Starlette(routes=routes, middleware=[Middleware(FaultMiddleware, faults=faults or Faults())])


class _Site:
    """The endpoints; plain functions, so that photos are drawn in threads and do not block the event loop."""

    def __init__(self, gallery: Gallery, options: Options) -> None:
        self._gallery = gallery
        self._options = options
        self._labels = {pair: label for label, pair in gallery.countries.items()}

    def listing(self, request: Request) -> Response:
        params = request.path_params
        label = self._labels.get((params["region"], params["country"]))
        if label is None:
            return JSONResponse({"has_error": 1, "message": "not found"}, status_code=404)
        options = self._options
        page = envelope(
            () if options.has_error else self._gallery.photos(label),
            page=_number(request, "page", 1),
            limit=_number(request, "limit", DEFAULT_LIMIT),
            shape=options.shape,
            host="" if options.relative_urls else _base_url(request),
            has_error=options.has_error,
        )
        if options.uploads_per_page:
            self._gallery.grow(label, photos=options.uploads_per_page)
        return JSONResponse(page)

    def picture(self, request: Request) -> Response:
        match = _FILE.fullmatch(request.path_params["file"])
        photo = match and self._gallery.find(request.path_params["member_id"], match["letters"])
        if not match or not photo:
            raise HTTPException(404)
        tag = self._options.robots_tag
        data = _draw(photo, match, request.path_params.get("max_px", ORIGINAL_PX))
        return Response(
            data,
            media_type="text/html" if photo.flaw == "html" else "image/jpeg",
            headers={"X-Robots-Tag": tag} if tag else None,
        )

    def photo(self, request: Request) -> Response:
        photo = self._gallery.photo(request.path_params["photo_id"])
        if photo is None:
            raise HTTPException(404)
        return _page("photo.html", photo=photo)

    def front(self, request: Request) -> Response:  # noqa: ARG002 - the signature of an endpoint
        newest = {label: self._gallery.photos(label)[:24] for label in self._gallery.labels}
        return _page("front.html", newest=newest)

    def robots(self, request: Request) -> Response:  # noqa: ARG002
        if self._options.robots_txt is None:
            raise HTTPException(404)
        return PlainTextResponse(self._options.robots_txt)


def _draw(photo: Photo, size: re.Match[str], max_px: int) -> bytes:
    width = int(size["width"])
    if size["height"] is None and width <= SQUARE_PX:
        return render_square(photo, width)
    height = int(size["height"]) if size["height"] else None
    return render(photo, width=width, height=height, max_px=max_px)


def _page(template: str, **values: object) -> HTMLResponse:
    return HTMLResponse(_PAGES.get_template(template).render(**values))


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return max(1, int(text)) if text.isdecimal() else default
