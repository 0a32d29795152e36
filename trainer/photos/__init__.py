"""Photo files and which of them we hold: decoding, duplicates, manifest, splits."""
