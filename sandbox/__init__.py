"""A Mastodon instance and a photo gallery on loopback. Imports neither `bot` nor `trainer`."""
