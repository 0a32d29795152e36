"""The Mastodon API; nothing else in `bot` knows it."""
