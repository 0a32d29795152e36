"""Tests of the trainer, from settings to a served version."""
