"""The Mastodon side of dokocos: from a mention on the stream to the reply in its thread."""
