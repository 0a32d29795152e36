"""Compute features of photos, here or on a Ray cluster; both hand batches to the one writer of the cache."""
