"""Orders, jobs and reports: how the bot runs itself and what its admins may tell it."""
