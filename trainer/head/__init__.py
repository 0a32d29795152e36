"""The small classifier on VGG16's features: fit, calibration, fine-tuning of block5, checkpoints."""
