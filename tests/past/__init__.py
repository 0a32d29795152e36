"""Data folders as past versions wrote them, and what each holds."""
