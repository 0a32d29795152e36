"""Errors as the API words them."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """Ends a request with `status` and `{"error": message}`."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class ServerFaultError(Exception):
    """Ends a request as an unhandled exception of the real server does: 500 and a page in HTML."""


def not_found() -> ApiError:
    """404 for an id that is unknown, or that the viewer may not see."""
    return ApiError(404, "Record not found")


def invalid(message: str) -> ApiError:
    """422 for a value that the server does not take."""
    return ApiError(422, f"Validation failed: {message}")
