"""Finished versions on disk, and the champion in memory."""
