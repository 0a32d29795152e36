"""The network, run by Keras or, in int8, by OpenVINO: weights, features and maps, and their cache on disk."""
