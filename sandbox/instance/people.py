"""Creates the initial accounts of the sandbox."""

from __future__ import annotations

from datetime import timedelta

from sandbox.instance.instance import Instance

BOT = "dokocos"
YOU = "you"  # the account of the web page
NAMES = {BOT: "dokocos どこコス", "admin": "Admin", "alice": "Alice", "bob": "Bob", "chie": "ちえ", YOU: "You"}
AGE = timedelta(days=365)


def add_people(instance: Instance) -> dict[str, str]:
    """Create the accounts, each a year old; returns name -> access token with all scopes."""
    created_at = instance.host.now() - AGE
    return {
        name: instance.add_account(name, display_name=shown, bot=name == BOT, created_at=created_at).token
        for name, shown in NAMES.items()
    }
