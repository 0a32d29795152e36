"""How the bot shows that it is well: heartbeat, metrics, status page, tables for the command line."""
