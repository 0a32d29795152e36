"""Tests of `trainer.review`."""
