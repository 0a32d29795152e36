"""Errors of API calls, sorted by what to do about them."""

from __future__ import annotations

from trainer.errors import ProjectError


class InstanceError(ProjectError):
    """Base class of all errors of a call to the instance."""


class RateLimited(InstanceError):  # noqa: N818 - the names below say what happened, as HTTP's own do
    """Too many requests; nothing was done. Wait, then repeat the call.

    Attributes:
        until: when the server accepts calls again; seconds since the epoch by this machine's clock.
        family: the calls this applies to: "call", "page", "post", "upload", "delete" or "stream".
        host: whose accounts this applies to, as they used up their share; None: to all.
    """

    def __init__(self, message: str, *, until: float, family: str, host: str | None = None) -> None:
        super().__init__(message)
        self.until = until
        self.family = family
        self.host = host


class Unauthorized(InstanceError):  # noqa: N818
    """The token is no longer valid; a person must log in again."""


class OutOfScope(Unauthorized):
    """The token is valid but not for this call; a person must add scopes, or restore the account's rights."""


class NotFound(InstanceError):  # noqa: N818
    """The resource is gone or not visible to the bot; a retry does not help."""


class Refused(InstanceError):  # noqa: N818
    """The server refused the request (403, 422 and the like); it would refuse it again.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Transient(InstanceError):  # noqa: N818
    """The call may work later. It is unknown whether anything was done.

    Attributes:
        outage: the whole server seems to be down, so the request itself may be fine.
        under_way: the server may still be processing the request, as it sent no answer.
    """

    def __init__(self, message: str, *, outage: bool, under_way: bool = False) -> None:
        super().__init__(message)
        self.outage = outage
        self.under_way = under_way


class NoSuchPage(Transient):
    """A 4xx without a JSON body: from a proxy whose server is down, or from an old server without this call.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, *, outage: bool, status: int) -> None:
        super().__init__(message, outage=outage)
        self.status = status
