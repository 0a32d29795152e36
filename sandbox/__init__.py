"""A Mastodon instance and a photo gallery on loopback. Knows neither `bot` nor `trainer`."""
