"""The errors that dokocos raises on purpose.

A message says what happened, to which thing, and what to do next. Anything else that is raised is a fault of ours.
"""


class ProjectError(Exception):
    """Base of all errors that a user or an admin can act on; its text is shown without a traceback."""


class ConfigError(ProjectError):
    """A setting is missing, unknown or not allowed."""


class FetchError(ProjectError):
    """Something could not be fetched from the network.

    Attributes:
        retry_after_s: seconds after which another try makes sense; None when it makes none.
        status: the HTTP status, None when no answer came.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status


class ImageError(ProjectError):
    """Bytes that are no image we can or want to decode.

    Attributes:
        reason: one word for counters and for the choice of words in a reply, e.g. "truncated", "too_large".
    """

    def __init__(self, message: str, *, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class DatasetError(ProjectError):
    """The photos that are held cannot be trained on as they are."""


class ModelError(ProjectError):
    """A version, a head or a weights file is missing, damaged or does not fit."""


class StorageError(ProjectError):
    """The disk is full, or a file of ours is locked or damaged; what was there before is untouched."""
