"""Shows whether the bot works: heartbeat, metrics, status page, tables for the command line."""
