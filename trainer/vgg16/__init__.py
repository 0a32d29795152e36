"""The network: weights, features and maps, and their cache on disk."""
