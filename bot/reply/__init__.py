"""Predictions as people see them: words in every language, pictures, alt texts, lengths."""
