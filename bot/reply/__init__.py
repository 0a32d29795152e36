"""Turns predictions into replies: texts in every language, pictures, alt texts, lengths."""
