"""Serves the status page and its neighbours on a local HTTP port."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from trainer.errors import ConfigError
from trainer.web.local_server import LocalServer, Page, Request

logger = logging.getLogger(__name__)


class Pages:
    """Serves pages on its own threads.

    Args:
        host, port: the address; port 0 means any free port.
        pages: path -> function that makes the page.
        names: host names under which it may be asked, beside "localhost", `host` and any IP address.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(
        self, host: str, port: int, pages: Mapping[str, Callable[[], Page]], *, names: Collection[str] = ()
    ) -> None:
        def answer(request: Request) -> Page:
            make = pages.get(request.path)
            return Page(b"no such page\n", status=404) if make is None else make()

        try:
            self._server = LocalServer(host, port, answer, names=names)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"bot.http_port: {host}:{port} cannot be listened on: {error}") from error
        self.url = self._server.url

    def start(self) -> None:
        """Starts answering requests."""
        self._server.start()
        logger.info("status page at %s/", self.url)

    def stop(self) -> None:
        """Stops and frees the port."""
        self._server.stop()
