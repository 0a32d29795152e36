"""Photo files: decoding, duplicates, the manifest of stored photos, splits."""
