"""The bot's SQLite file; nothing else in `bot` knows SQLite."""
