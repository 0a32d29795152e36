"""The errors that dokocos raises on purpose.

A message says what happened, to which thing, and what to do next. Any other exception is a bug.
"""


class ProjectError(Exception):
    """Base class of errors that a user or an admin can act on; shown without a traceback."""


class ConfigError(ProjectError):
    """A setting is missing, unknown or not allowed."""


class FetchError(ProjectError):
    """Something could not be fetched from the network.

    Attributes:
        retry_after_s: seconds to wait before a retry; None when a retry is no use.
        status: the HTTP status; None when there was no response.
        too_large: there are more bytes than were asked for.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        status: int | None = None,
        too_large: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status
        self.too_large = too_large


class ImageError(ProjectError):
    """Bytes that cannot be decoded as an image, or that exceed a limit.

    Attributes:
        reason: one word for counters and for choosing the reply text, e.g. "truncated", "too_large".
    """

    def __init__(self, message: str, *, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class DatasetError(ProjectError):
    """The stored photos are not enough, or not suitable, for training."""


class ModelError(ProjectError):
    """A version, a head or a weights file is missing, damaged or does not fit."""


class StorageError(ProjectError):
    """The disk is full, a data file is locked or damaged, or a bucket does not answer; what is stored is unchanged."""


class ClusterError(ProjectError):
    """A Ray cluster cannot be started or joined, or has no worker left; features computed so far are kept."""
