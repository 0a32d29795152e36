"""Tests of the trainer, from settings to versions that can serve."""
