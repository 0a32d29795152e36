"""The page of `python -m trainer review --serve`: one suspect at a time, to keep, relabel, drop or skip.

Its address holds a token that works once, and is exchanged for a cookie that no other site's page can send. A form is
only taken from this page itself.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from functools import cache
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.errors import ImageError, ModelError, StorageError
from trainer.review.pictures import LARGE_PX, SMALL_PX, Pictures
from trainer.review.settling import Settling
from trainer.review.words import Words, texts
from trainer.web.local_server import Page, Request

TEMPLATE = Path(__file__).with_name("page.html.j2")
TEXTS = texts()
LANGUAGE = "dokocos_language"  # cookie
N_NEIGHBOURS = 4


class ReviewPage:
    """Answers the requests of one person's browser."""

    def __init__(
        self,
        settling: Settling,
        pictures: Pictures,
        *,
        oddities: Sequence[Words] = (),
        giveaways: Sequence[Words] = (),
    ) -> None:
        """`oddities`, `giveaways`: of members and labels as a whole; shown below the photos."""
        self._settling = settling
        self._pictures = pictures
        self._as_a_whole = {"oddities": oddities, "giveaways": giveaways}
        self._token: str | None = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._cookie = f"dokocos_review_{secrets.token_hex(4)}"  # cookies are the same for all ports of a machine

    def address(self, base_url: str) -> str:
        """The address that works once."""
        return f"{base_url}/start?token={self._token}"

    def answer(self, request: Request) -> Page:
        """Answer one request; what cannot be recorded is said on the page."""
        cookies = _cookies(request)
        language = _language(request, cookies)
        if request.method == "GET" and request.path == "/start":
            return self._start(request.values.get("token", ""), language)
        if not hmac.compare_digest(cookies.get(self._cookie, "").encode(), self._session.encode()):
            return Page(TEXTS[language]["refused"].encode(), status=403)
        if request.method == "POST":
            if not _is_own(request):
                return Page(b"not from this page\n", status=403)
            try:
                return self._post(request)
            except StorageError as error:
                return self._show(request, language, fault=TEXTS[language]["not_kept"].format(error=error))
        if request.path == "/":
            return self._show(request, language)
        if request.path == "/language":
            chosen = request.values.get("to", "")
            cookie = f"{LANGUAGE}={chosen}; Path=/; SameSite=Strict"
            return _to("/", {"Set-Cookie": cookie}) if chosen in TEXTS else _to("/")
        if request.path == "/favicon.ico":
            return Page(b"", status=204)
        if request.path.endswith(".jpg"):
            return self._picture(request.path)
        return Page(b"no such page\n", status=404)

    def _start(self, token: str, language: str) -> Page:
        if self._token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
            return Page(TEXTS[language]["refused"].encode(), status=403)
        self._token = None
        return _to("/", {"Set-Cookie": f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"})

    def _post(self, request: Request) -> Page:
        settling, at = self._settling, _number(request.values.get("at", ""))
        verdict, label = request.values.get("verdict"), request.values.get("label")
        try:
            if request.path == "/again":
                settling.unskip()
                return _to("/")
            if request.path == "/undo":
                undone = settling.undo(_number(request.values.get("step", "")))
                return _to("/" if undone is None else f"/?at={undone}")
            if request.path == "/skip" and 0 <= at < len(settling.suspects):
                settling.skip(at)
            elif request.path == "/decide" and verdict in ("keep", "drop"):
                settling.decide(at, verdict)  # type: ignore[arg-type]
            elif request.path == "/decide" and verdict == "relabel":
                settling.decide(at, "relabel", label or "")
            else:
                return Page(b"no such decision\n", status=400)
        except ValueError:
            return Page(b"no such photo or label\n", status=400)
        following = settling.next(at)
        return _to("/" if following is None else f"/?at={following}")

    def _show(self, request: Request, language: str, *, fault: str = "") -> Page:
        settling, own = self._settling, TEXTS[language]
        at: int | None = _number(request.values.get("at", ""))
        if at is None or not 0 <= at < len(settling.suspects):
            at = settling.next()
        nonce = secrets.token_urlsafe(16)
        suspect = None if at is None else settling.suspects[at]
        body = _template().render(
            texts=own,
            language=language,
            other=next(each for each in TEXTS if each != language),
            nonce=nonce,
            at=at,
            following=None if at is None else settling.next(at),
            suspect=suspect,
            labels=settling.labels,
            scores=list(zip(settling.labels, suspect.scores, strict=False)) if suspect else [],
            neighbours=suspect.neighbours[:N_NEIGHBOURS] if suspect else (),
            n_settled=settling.n_settled,
            n_steps=settling.n_steps,
            fault=fault,
            n_suspects=len(settling.suspects),
            has_map=self._pictures.classifier is not None,
            **self._as_a_whole,
        )
        policy = (
            f"default-src 'none'; img-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        # Without a referrer, a browser would not say either from which page a form comes.
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "same-origin"}
        return Page(body.encode(), "text/html; charset=utf-8", 503 if fault else 200, headers)

    def _picture(self, path: str) -> Page:
        """/12/photo.jpg, /12/map.jpg, /12/0.jpg: a suspect, where the champion looked, its first neighbour."""
        number, _, name = path.strip("/").removesuffix(".jpg").partition("/")
        at = _number(number)
        if not 0 <= at < len(self._settling.suspects):
            return Page(b"no such photo\n", status=404)
        suspect = self._settling.suspects[at]
        try:
            if name in ("photo", "map"):
                found = self._pictures.photo(suspect.photo, LARGE_PX, name == "map")
            else:
                found = self._pictures.photo(suspect.neighbours[_number(name)], SMALL_PX, False)
        except (ImageError, ModelError, StorageError, IndexError):
            return Page(b"this photo cannot be shown\n", status=404)
        return Page(found, "image/jpeg", headers={"Cache-Control": "private, max-age=600"})  # it was loaded ahead


def _to(path: str, headers: dict[str, str] | None = None) -> Page:
    return Page(b"", status=303, headers={"Location": path, **(headers or {})})


def _number(text: str) -> int:
    """A number that is not negative; -1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _is_own(request: Request) -> bool:
    """Whether a form was posted by this page: by its Origin, or by what a browser says of the site."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        return False
    return site == "same-origin" if site is not None else origin is not None


def _cookies(request: Request) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(request.headers.get("Cookie", "")).items()}
    except CookieError:
        return {}


def _language(request: Request, cookies: dict[str, str]) -> str:
    """The chosen language, else the first known one that the browser asks for, else English."""
    wanted = request.headers.get("Accept-Language", "").replace(";", ",").split(",")
    asked = [cookies.get(LANGUAGE, ""), *(each.strip().partition("-")[0].lower() for each in wanted)]
    return next((each for each in asked if each in TEXTS), "en")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
