"""Routes for apps, the authorization page, and tokens.

Source: https://docs.joinmastodon.org/methods/oauth/, Doorkeeper's error descriptions
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.instance.api import Call, route
from sandbox.instance.errors import ApiError, invalid
from sandbox.instance.instance import Instance
from sandbox.instance.pages import TEMPLATES
from sandbox.instance.records import App
from sandbox.instance.tokens import OUT_OF_BAND, covers

DESCRIPTIONS = {
    "invalid_client": "Client authentication failed due to unknown client, no client authentication included, or "
    "unsupported authentication method.",
    "invalid_grant": "The provided authorization grant is invalid, expired, revoked, does not match the redirection "
    "URI used in the authorization request, or was issued to another client.",
    "invalid_redirect_uri": "The redirect uri included is not valid.",
    "invalid_scope": "The requested scope is invalid, unknown, or malformed.",
    "unsupported_grant_type": "The authorization grant type is not supported by the authorization server.",
}
KNOWN_SCOPES = {"read", "write", "follow", "push", "profile"}


def routes(instance: Instance) -> list[Route]:
    return [
        route(instance, "/api/v1/apps", _register, method="POST"),
        route(instance, "/api/v1/apps/verify_credentials", _verify_app, scopes=()),
        route(instance, "/oauth/authorize", _ask),
        route(instance, "/oauth/authorize", _decide, method="POST"),
        route(instance, "/oauth/authorize/native", _show_code),
        route(instance, "/oauth/token", _token, method="POST"),
        route(instance, "/oauth/revoke", _revoke, method="POST"),
        route(instance, "/.well-known/oauth-authorization-server", _discover),
    ]


async def _register(call: Call) -> Any:
    params = call.params
    redirect_uris = [uri for text in params.list("redirect_uris") for uri in text.split()]
    if not params.text("client_name"):
        raise invalid("Application name can't be blank")
    if not redirect_uris:
        raise invalid("Redirect URI can't be blank")
    for uri in redirect_uris:
        if not urlsplit(uri).scheme:
            raise invalid("Redirect URI must be an absolute URI.")
    scopes = params.text("scopes", "read").split()
    if not all(scope.split(":")[0] in KNOWN_SCOPES for scope in scopes):
        raise invalid("Scopes doesn't match configured on the server.")
    app = call.instance.tokens.register(
        params.text("client_name"), redirect_uris, scopes, params.text("website") or None
    )
    return call.instance.entities.app(app, with_secret=True)


async def _verify_app(call: Call) -> Any:
    app = call.token.app if call.token else None
    return call.instance.entities.app(app, with_secret=False) if app else {"name": call.instance.settings.title}


async def _ask(call: Call) -> Response:
    """Show the page where a user chooses an account and authorizes the app."""
    app, scopes, redirect_uri = _request(call)
    page = TEMPLATES.get_template("authorize.html")
    asked = {"client_id": app.client_id, "redirect_uri": redirect_uri, "scope": " ".join(scopes)}
    asked |= {name: call.params.text(name) for name in ("state", "code_challenge")}
    return HTMLResponse(page.render(app=app, scopes=scopes, asked=asked, accounts=call.instance.accounts.local()))


async def _decide(call: Call) -> Response:
    app, scopes, redirect_uri = _request(call)
    if call.params.text("decision") != "approve":
        return _send_back(call, redirect_uri, {"error": "access_denied"})
    account = call.instance.accounts.find(call.params.text("account"))
    if account is None:
        raise ApiError(422, "Unknown account")
    challenge = call.params.text("code_challenge") or None
    return _send_back(
        call, redirect_uri, {"code": call.instance.tokens.grant(app, account, scopes, redirect_uri, challenge)}
    )


def _request(call: Call) -> tuple[App, list[str], str]:
    """The app, scopes and redirect URI of an authorization request.

    Raises:
        ApiError: 400 or 401 if they do not match the registered app.
    """
    app = call.instance.tokens.app(call.params.text("client_id"))
    if app is None:
        raise ApiError(401, DESCRIPTIONS["invalid_client"])
    redirect_uri = call.params.text("redirect_uri")
    if redirect_uri not in app.redirect_uris:
        raise ApiError(400, DESCRIPTIONS["invalid_redirect_uri"])
    scopes = call.params.text("scope", "read").split()
    if not all(covers(app.scopes, scope) for scope in scopes):
        raise ApiError(400, DESCRIPTIONS["invalid_scope"])
    return app, scopes, redirect_uri


def _send_back(call: Call, redirect_uri: str, answer: dict[str, str]) -> Response:
    if redirect_uri == OUT_OF_BAND:
        return RedirectResponse(f"/oauth/authorize/native?{urlencode(answer)}", 302)
    if call.params.text("state"):
        answer["state"] = call.params.text("state")
    joint = "&" if urlsplit(redirect_uri).query else "?"
    return RedirectResponse(f"{redirect_uri}{joint}{urlencode(answer)}", 302)


async def _show_code(call: Call) -> Response:
    page = TEMPLATES.get_template("code.html")
    return HTMLResponse(page.render(code=call.params.text("code")))


async def _token(call: Call) -> Response:
    app = _client(call)
    if app is None:
        return _refuse(401, "invalid_client")
    tokens, params = call.instance.tokens, call.params
    kind = params.text("grant_type")
    if kind == "authorization_code":
        redirect_uri, verifier = params.text("redirect_uri"), params.text("code_verifier") or None
        token = tokens.redeem(params.text("code"), app, redirect_uri, verifier)
        return _refuse(400, "invalid_grant") if token is None else JSONResponse(call.instance.entities.token(token))
    if kind == "client_credentials":
        scopes = params.text("scope", "read").split()
        if not all(covers(app.scopes, scope) for scope in scopes):
            return _refuse(400, "invalid_scope")
        return JSONResponse(call.instance.entities.token(tokens.issue(None, scopes=scopes, app=app)))
    return _refuse(400, "unsupported_grant_type")


def _client(call: Call) -> App | None:
    """The calling app, from form parameters or HTTP Basic; None if the secret is wrong."""
    client_id, secret = call.params.text("client_id"), call.params.text("client_secret")
    scheme, _, encoded = call.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        client_id, _, secret = base64.b64decode(encoded).decode(errors="replace").partition(":")
    app = call.instance.tokens.app(client_id)
    return app if app is not None and app.client_secret == secret else None


def _refuse(status: int, error: str) -> Response:
    return JSONResponse({"error": error, "error_description": DESCRIPTIONS[error]}, status)


async def _revoke(call: Call) -> Any:
    app = _client(call)
    token = call.instance.tokens.find(call.params.text("token"))
    if app is None or (token is not None and token.app is not app):
        description = "You are not authorized to revoke this token"
        return JSONResponse({"error": "unauthorized_client", "error_description": description}, 403)
    if token is not None:
        call.instance.revoke(token.value)
    return {}


async def _discover(call: Call) -> Any:
    base = call.instance.base_url
    return {
        "issuer": f"{base}/",
        "authorization_endpoint": f"{base}/oauth/authorize",
        "token_endpoint": f"{base}/oauth/token",
        "revocation_endpoint": f"{base}/oauth/revoke",
        "app_registration_endpoint": f"{base}/api/v1/apps",
        "scopes_supported": sorted(KNOWN_SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "grant_types_supported": ["authorization_code", "client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
    }
