"""Evaluates versions and decides on promotion, with NumPy only: no Keras, no disk access."""
