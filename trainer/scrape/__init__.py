"""Reads the pages of a source, and stores new photos in the manifest."""
