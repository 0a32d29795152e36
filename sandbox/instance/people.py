"""The accounts that the sandbox starts with."""

from __future__ import annotations

from datetime import timedelta

from sandbox.instance.instance import Instance

BOT = "dokocos"
YOU = "you"  # whom the web page posts as
NAMES = {BOT: "dokocos どこコス", "admin": "Admin", "alice": "Alice", "bob": "Bob", "chie": "ちえ", YOU: "You"}
AGE = timedelta(days=365)


def add_people(instance: Instance) -> dict[str, str]:
    """Make the accounts, a year old each; name -> access token for everything."""
    created_at = instance.host.now() - AGE
    return {
        name: instance.add_account(name, display_name=shown, bot=name == BOT, created_at=created_at).token
        for name, shown in NAMES.items()
    }
