"""Collects the fatal error that ends the bot, from any part that finds one."""

from __future__ import annotations

import threading

from trainer.errors import ConfigError, StorageError


class Ending:
    """Keeps the first fatal error, and signals the end.

    Args:
        base_url: the instance's address, for the advice after a refused token.
    """

    def __init__(self, base_url: str) -> None:
        self.error: Exception | None = None
        self.is_over = threading.Event()
        self._base_url = base_url

    def fatal(self, error: Exception) -> None:
        """Records a fatal error: a damaged database needs a restart, a refused token a new login."""
        if self.error is None:
            self.error = (
                error
                if isinstance(error, StorageError)
                else ConfigError(f"the instance refuses the token: {error}; run `python -m bot login {self._base_url}`")
            )
        self.is_over.set()
