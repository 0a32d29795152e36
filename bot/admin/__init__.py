"""Orders, jobs and reports: what the bot does by itself, and what admins can order."""
