"""The errors of the API, with the texts of the real server."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """Responds with `status` and `{"error": message}`."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class ServerFaultError(Exception):
    """Responds like an unhandled exception of the real server: 500 and an HTML page."""


def not_found() -> ApiError:
    """404 for an id that is unknown or not visible to the caller."""
    return ApiError(404, "Record not found")


def invalid(message: str) -> ApiError:
    """422 for an invalid value."""
    return ApiError(422, f"Validation failed: {message}")
