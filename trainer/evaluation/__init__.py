"""How good a version is and whether it may serve; NumPy alone, no Keras, no disk."""
