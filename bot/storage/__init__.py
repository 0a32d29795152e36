"""The bot's SQLite file; nothing else in `bot` uses SQLite."""
