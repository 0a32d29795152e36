"""The Mastodon bot: from a mention on the stream to the reply in its thread."""
