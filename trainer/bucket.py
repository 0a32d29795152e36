"""Objects under one prefix of an S3 bucket; no other module knows PyArrow, which speaks S3's protocol.

An object appears whole or not at all. Credentials come from AWS's own variables and files (AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws), or from the machine's role; nothing here reads, keeps or names them.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.config import BucketSettings, Settings
from trainer.errors import ConfigError, StorageError
from trainer.files import read_file, write_file

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 20.0  # without a byte, until a request counts as failed
MAX_ATTEMPTS = 4  # of a request, with longer and longer pauses
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
OWNER = "owner"  # the object that says whose prefix this is
OWN_ID = "bucket_id"  # data_dir's file with the same content
MAX_ID_BYTES = 64
# In what PyArrow says of a request that a server refused.
REFUSED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "TOKEN",
    "HTTP status 401",
    "HTTP status 403",
)


class Bucket:
    """Objects by name, e.g. "images/japan/1f.jpeg"; thread-safe, and connected when it is first needed."""

    def __init__(self, settings: BucketSettings, data_dir: Path | None = None) -> None:
        """Nothing is sent yet.

        Args:
            settings: with a URL.
            data_dir: whose photos these are; None: only read.

        Raises:
            ConfigError: PyArrow is not installed.
        """
        assert settings.url is not None  # noqa: S101
        self.url = settings.url.rstrip("/")
        self._bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self._prefix = f"{self._bucket}/{prefix}".rstrip("/")
        self._endpoint_url = settings.endpoint_url or next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), None)
        self._data_dir = data_dir
        self._is_ours = False
        self._connected: Any = None
        self._lock = threading.RLock()
        try:
            self._fs = importlib.import_module("pyarrow.fs")
        except ImportError as error:
            raise ConfigError("bucket.url: PyArrow is not installed; see docs/SCALE.md") from error

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """The content of an object.

        Raises:
            OSError: there is no such object, or it has more bytes.
            StorageError: the bucket does not answer, or refuses.
        """
        s3 = self._connect()
        with self._explained():
            try:
                with s3.open_input_file(self._path(name)) as file:
                    if (size := file.size()) > max_bytes:
                        raise _TooLargeError(errno.EFBIG, f"{size:,} bytes, more than {max_bytes:,}")
                    return bytes(file.read(size))
            except FileNotFoundError:
                pass
        raise FileNotFoundError(errno.ENOENT, "no such object", f"{self.url}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Put an object in place of one of this name, if any.

        Raises:
            StorageError: the bucket does not answer, refuses, or is another data_dir's; the object is as it was.
        """
        self._claim()
        self._put(name, data)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there; raises as `write`."""
        self._claim()
        with self._explained(), contextlib.suppress(FileNotFoundError):
            self._connect().delete_file(self._path(name))

    def names(self, folder: str) -> Iterator[str]:
        """The names of all objects in a folder and those below, in any order; raises as `read`."""
        s3 = self._connect()
        with self._explained():
            found = s3.get_file_info(self._fs.FileSelector(self._path(folder), allow_not_found=True))
        for info in found:
            name = info.path.removeprefix(f"{self._prefix}/")
            if info.type == self._fs.FileType.Directory:
                yield from self.names(name)
            else:
                yield name

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _put(self, name: str, data: bytes) -> None:
        s3 = self._connect()
        with self._explained(), s3.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    def _connect(self) -> Any:
        """PyArrow's file system, once it was seen that the bucket is there."""
        with self._lock:
            if self._connected is None:
                with self._explained():
                    s3 = self._fs.S3FileSystem(**self._options())
                    is_there = s3.get_file_info(self._bucket).type != self._fs.FileType.NotFound
                if not is_there:
                    raise StorageError(f"s3://{self._bucket}: there is no such bucket; make it, or correct bucket.url")
                self._connected = s3
            return self._connected

    def _options(self) -> dict[str, Any]:
        options = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "request_timeout": SILENCE_S,
            "retry_strategy": self._fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
            "allow_delayed_open": True,  # a photo is one request
        }
        if self._endpoint_url is None:
            return options | {"region": self._fs.resolve_s3_region(self._bucket)}
        parts = urlsplit(self._endpoint_url)
        return options | {"scheme": parts.scheme, "endpoint_override": parts.netloc}

    def _claim(self) -> None:
        """See that nobody else writes here, as the clearing up of one data_dir would delete the photos of another."""
        with self._lock:
            if self._is_ours:
                return
            if self._data_dir is None:
                raise StorageError(f"{self.url}: only the process that was started by hand writes")
            own = _own_id(self._data_dir)
            try:
                owner = self.read(OWNER, max_bytes=MAX_ID_BYTES)
            except FileNotFoundError:
                self._put(OWNER, own)
                owner = self.read(OWNER, max_bytes=MAX_ID_BYTES)
            if owner != own:
                raise StorageError(
                    f"{self.url}: holds the photos of another data_dir; give bucket.url a prefix of its own, or copy "
                    f"that data_dir's file {OWN_ID} into {self._data_dir}, which then takes its place"
                )
            self._is_ours = True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of PyArrow into StorageError, with advice."""
        try:
            yield
        except (FileNotFoundError, _TooLargeError):
            raise
        except OSError as error:
            said = str(error)
            if any(word in said for word in REFUSED):
                why = "refuses the credentials"
                advice = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE and ~/.aws/credentials"
            else:
                why, advice = "does not answer as it should", "check the network, bucket.url and bucket.endpoint_url"
            raise StorageError(
                f"{self.url}: the bucket {why} ({said}); {advice}. Nothing is lost, and the same command continues"
            ) from error


class _TooLargeError(OSError):
    """An object has more bytes than are wanted."""


def open_bucket(settings: Settings) -> Bucket | None:
    """The bucket of data_dir's photos and features; None if they are files. The same object for the same settings.

    Raises:
        ConfigError: PyArrow is not installed.
    """
    return None if settings.bucket.url is None else _open(settings.bucket, settings.data_dir.absolute())


@cache
def _open(settings: BucketSettings, data_dir: Path) -> Bucket:
    return Bucket(settings, data_dir)


def _own_id(data_dir: Path) -> bytes:
    """What tells this data_dir from others; made when it is first needed."""
    path = data_dir / OWN_ID
    try:
        return read_file(path, max_bytes=MAX_ID_BYTES)
    except FileNotFoundError:
        own = secrets.token_hex(16).encode()
        write_file(path, lambda file: file.write(own))
        return own
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; nothing was changed") from error
