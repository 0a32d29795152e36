"""Serves the web page of the instance: the timeline as threads, and a form to post.

It shows what the account `you` can see, and posts as that account. Without JavaScript, a reload shows new statuses.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.instance.errors import ApiError
from sandbox.instance.instance import Instance
from sandbox.instance.pages import TEMPLATES, WORDS, language_of
from sandbox.instance.people import BOT, YOU
from sandbox.instance.records import Account, Status
from sandbox.instance.statuses import Draft

MAX_THREADS = 50
# No external resources, and only the page's own script.
POLICY = (
    "default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'"
)


@dataclass(frozen=True, slots=True)
class Post:
    """A status on the page, and its depth in the thread."""

    status: Status
    depth: int


@dataclass(frozen=True, slots=True)
class _Form:
    """The values of the form, and its error."""

    text: str
    description: str = ""
    error: str = ""


class Timeline:
    """The routes of the page."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def routes(self) -> list[Route]:
        return [
            Route("/", self._show),
            Route("/", self._post, methods=["POST"]),
            Route("/threads", self._threads_only),
            Route("/@{acct}", self._show),
            Route("/@{acct}/threads", self._threads_only),
            Route("/@{acct}/{id:int}", self._show),
            Route("/@{acct}/{id:int}/threads", self._threads_only),
        ]

    @property
    def _you(self) -> Account | None:
        return self._instance.accounts.find(YOU)

    async def _show(self, request: Request) -> Response:
        prefill = f"@{BOT} {WORDS[language_of(request)]['question']}"
        return self._page(request, _Form(prefill))

    async def _threads_only(self, request: Request) -> Response:
        """The changing part of the page; 304 if it has not changed."""
        html = self._threads_html(request)
        etag = f'"{hashlib.sha256(html.encode()).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"ETag": etag})
        return HTMLResponse(html, headers={"ETag": etag, "Cache-Control": "no-cache"})

    async def _post(self, request: Request) -> Response:
        """Post as `you`; invalid input shows the page again, with the error."""
        origin, you = request.headers.get("origin"), self._you
        if you is None or origin not in (None, str(request.base_url).rstrip("/")):
            return HTMLResponse("<!DOCTYPE html><title>403</title><p>Not from here.</p>", 403)
        async with request.form() as form:
            text, description = str(form.get("text", "")), str(form.get("description", ""))
            photos = [await each.read() for each in form.getlist("photos") if isinstance(each, UploadFile)]
        try:
            media = [
                await run_in_threadpool(self._instance.media.upload, you, photo, description, wait=True)
                for photo in photos
                if photo
            ]
            draft = Draft(text, language=language_of(request), media_ids=tuple(each.id for each in media))
            self._instance.statuses.post(you, draft)
        except ApiError as error:
            return self._page(request, _Form(text, description, error.message), status=422)
        return RedirectResponse(request.url, 303)

    def _page(self, request: Request, form: _Form, *, status: int = 200) -> Response:
        language = language_of(request)
        nonce = secrets.token_urlsafe(16)
        html = TEMPLATES.get_template("timeline.html").render(
            form=form if self._you and not request.path_params else None,
            language=language,
            nonce=nonce,
            path=request.url.path,
            threads=self._threads_html(request),
            title=self._instance.settings.title,
            words=WORDS[language],
            you=self._you,
        )
        policy = f"{POLICY}; script-src 'nonce-{nonce}'"
        headers = {"Content-Security-Policy": policy, "Vary": "Accept-Language"}
        return HTMLResponse(html, status, headers)

    def _threads_html(self, request: Request) -> str:
        language = language_of(request)
        with self._instance.host.lock:
            return TEMPLATES.get_template("threads.html").render(
                entities=self._instance.entities,
                language=language,
                threads=list(self._threads(request.path_params)),
                words=WORDS[language],
                you=self._you,
            )

    def _threads(self, path: dict[str, object]) -> Iterator[list[Post]]:
        """The threads that the URL selects, newest first."""
        n = 0
        for status in reversed(self._instance.statuses.all()):
            if n == MAX_THREADS:
                return
            if not self._is_start(status):
                continue
            posts = list(self._thread(status))
            accounts = {post.status.account.acct for post in posts}
            ids = {post.status.id for post in posts}
            if path.get("acct", status.account.acct) in accounts and path.get("id", status.id) in ids:
                n += 1
                yield posts

    def _is_start(self, status: Status) -> bool:
        statuses, you = self._instance.statuses, self._you
        if status.reblog is not None or not statuses.can_see(you, status):
            return False
        parent = statuses.parent_of(status)
        return parent is None or not statuses.can_see(you, parent)

    def _thread(self, start: Status) -> Iterator[Post]:
        statuses = self._instance.statuses
        depths = {start.id: 0}
        yield Post(start, 0)
        for status in statuses.descendants(start, self._you):
            depths[status.id] = depths.get(status.in_reply_to_id or 0, 0) + 1
            yield Post(status, depths[status.id])
