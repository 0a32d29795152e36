"""Shared code of all API routes: parameters, caller, scopes, rate limits, errors."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.instance.errors import ApiError, ServerFaultError, not_found
from sandbox.instance.instance import Instance
from sandbox.instance.notifications import Page
from sandbox.instance.records import Account, Token
from sandbox.instance.tokens import covers

FALSE = {"0", "f", "F", "false", "FALSE", "off", "OFF", ""}
OUT_OF_SCOPE = "This action is outside the authorized scopes"
# public/500.html of the real server, shortened.
BROKEN_PAGE = (
    "<!DOCTYPE html><html lang='en'><head><title>We're sorry, but something went wrong</title></head>"
    "<body><h1>We're sorry, but something went wrong on our end.</h1></body></html>"
)


class Params:
    """Query, form and JSON parameters, merged as in Rails; `x[]` is the list named x."""

    def __init__(self, values: Mapping[str, list[Any]]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def last(self) -> dict[str, Any]:
        """The last value of each parameter."""
        return {name: values[-1] for name, values in self._values.items() if values}

    def list(self, name: str) -> list[str]:
        return [str(value) for value in self._values.get(name, []) if value is not None]

    def text(self, name: str, default: str = "") -> str:
        values = self._values.get(name)
        return default if not values or values[-1] is None else str(values[-1])

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.text(name)
        return default if name not in self else (value not in FALSE and value != "False")

    def number(self, name: str) -> int | None:
        """A parameter as an integer; None if it is missing or invalid."""
        try:
            return int(self.text(name))
        except ValueError:
            return None

    def file(self, name: str) -> UploadFile | None:
        value = self._values.get(name, [None])[-1]
        return value if isinstance(value, UploadFile) else None


async def read_params(request: Request) -> Params:
    """Read the parameters of a request.

    Raises:
        ApiError: 400 for invalid JSON.
    """
    values: dict[str, list[Any]] = {}
    for key, value in request.query_params.multi_items():
        values.setdefault(_plain(key), []).append(value)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        for key, value in (await _json(request)).items():
            values[_plain(key)] = list(value) if isinstance(value, list) else [value]
    elif kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        form = await request.form()
        for key in form:
            values[_plain(key)] = list(form.getlist(key))
    return Params(values)


def _plain(key: str) -> str:
    return key.partition("[")[0] if key.endswith("]") else key


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise ApiError(400, "Error occurred while parsing request parameters") from error
    return found if isinstance(found, dict) else {}


@dataclass(slots=True)
class Call:
    """One API call."""

    request: Request
    instance: Instance
    params: Params
    token: Token | None
    headers: dict[str, str] = field(default_factory=dict)  # of the response

    @property
    def viewer(self) -> Account | None:
        """The account of the caller; None without a token or for an app token."""
        return self.token.account if self.token else None

    @property
    def user(self) -> Account:
        """The account of the caller, on routes that need a user."""
        if self.viewer is None:
            raise ApiError(422, "This method requires an authenticated user")
        return self.viewer

    def id(self, name: str = "id") -> int:
        """The number of the record whose id is in the path. Raises ApiError 404 if it is no id."""
        number = self.instance.host.read_id(str(self.request.path_params[name]))
        if number is None:
            raise not_found()
        return number

    def ids(self, name: str) -> list[int]:
        """The numbers of the records whose ids are in a list; other texts are left out."""
        found = (self.instance.host.read_id(text) for text in self.params.list(name))
        return [number for number in found if number is not None]

    def page(self, *, default: int, most: int) -> Page:
        limit = self.params.number("limit")
        return Page(
            limit=max(1, min(default if limit is None else limit, most)),
            **{name: self.instance.host.read_id(self.params.text(name)) for name in ("max_id", "since_id", "min_id")},
        )

    def link(self, ids: list[int], page: Page) -> None:
        """Set the Link header for a page with these ids, newest first."""
        if not ids:
            return
        paging = ("max_id", "since_id", "min_id")
        url = self.request.url.remove_query_params(paging)
        newest, oldest = (self.instance.host.shown_id(ids[at]) for at in (0, -1))
        links = [f'<{url.include_query_params(min_id=newest)}>; rel="prev"']
        if len(ids) == page.limit:
            links.insert(0, f'<{url.include_query_params(max_id=oldest)}>; rel="next"')
        self.headers["Link"] = ", ".join(links)


Handler = Callable[[Call], Awaitable[Any]]


def route(
    instance: Instance,
    path: str,
    handler: Handler,
    *,
    method: str = "GET",
    scopes: tuple[str, ...] | None = None,
    optional: bool = False,
) -> Route:
    """Create an API route.

    Args:
        handler: returns a Response, or a value for a JSON response.
        scopes: the token needs one of them; empty: any token; None: no token needed.
        optional: whether calls without a token are allowed (`scopes` apply to calls with one).
    """

    async def endpoint(request: Request) -> Response:
        headers: dict[str, str] = {}
        try:
            call = Call(request, instance, await read_params(request), None, headers)
            call.token = _token(call)
            _count(call)
            _authorize(call, scopes, optional=optional)
            found = await handler(call)
            response = found if isinstance(found, Response) else JSONResponse(found)
        except ApiError as error:
            response = JSONResponse({"error": error.message}, error.status, error.headers)
        except ServerFaultError:
            response = _broken(request)
        finally:
            await request.close()
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response

    return Route(path, endpoint, methods=[method])


def _token(call: Call) -> Token | None:
    """The token of a call, or None. Raises ApiError 401 for an invalid token."""
    scheme, _, value = call.request.headers.get("authorization", "").partition(" ")
    value = value.strip() if scheme.lower() == "bearer" else call.params.text("access_token")
    return call.instance.tokens.get(value) if value else None


def _count(call: Call) -> None:
    path = call.request.scope["path"]
    call.headers |= call.instance.limits.take_call(call.request.method, path, call.params.last(), call.token)


def _authorize(call: Call, scopes: tuple[str, ...] | None, *, optional: bool) -> None:
    if call.token is None:
        if scopes is not None and not optional:
            call.instance.tokens.get("")
        return
    if scopes and not any(covers(call.instance.tokens.granted(call.token), scope) for scope in scopes):
        raise ApiError(403, OUT_OF_SCOPE)
    if call.viewer is not None and call.viewer.suspended:
        raise ApiError(403, "Your login is currently disabled")


def _broken(request: Request) -> Response:
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"status": 500, "error": "Internal Server Error"}, 500)
    return HTMLResponse(BROKEN_PAGE, 500)
