"""What can go wrong with the instance, sorted by what to do about it."""

from __future__ import annotations

from trainer.errors import ProjectError


class InstanceError(ProjectError):
    """Base of all that the instance, or the way to it, can do to a call."""


class RateLimited(InstanceError):  # noqa: N818 - the names below say what happened, as the API's own words do
    """Too many requests; nothing was done. Wait, then do the same again.

    Attributes:
        until: seconds since the epoch, by this machine's clock, from when the server will listen again.
        family: the kind of calls that is meant: "call", "page", "post", "upload", "delete" or "stream".
    """

    def __init__(self, message: str, *, until: float, family: str) -> None:
        super().__init__(message)
        self.until = until
        self.family = family


class Unauthorized(InstanceError):  # noqa: N818
    """The token is not valid any more; only a person can help."""


class OutOfScope(Unauthorized):
    """The token is good, but not for this; only a person can give it more scopes, or the account its rights back."""


class NotFound(InstanceError):  # noqa: N818
    """What was asked for is gone, or not shown to us; trying again is no use."""


class Refused(InstanceError):  # noqa: N818
    """The server understood and will not (403, 422 and the like); the same request will be refused again.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Transient(InstanceError):  # noqa: N818
    """It may work later. Whether anything was done is unknown.

    Attributes:
        outage: the server as a whole seems to be away, so this is nothing against the request itself.
        under_way: the server may still be at work on the request, as no answer of its own came back.
    """

    def __init__(self, message: str, *, outage: bool, under_way: bool = False) -> None:
        super().__init__(message)
        self.outage = outage
        self.under_way = under_way


class NoSuchPage(Transient):
    """A 4xx that is not in the API's own words: a proxy whose server is not there, or an old server without this call.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, *, outage: bool, status: int) -> None:
        super().__init__(message, outage=outage)
        self.status = status
