"""Tests of the sandbox: the instance, the gallery and the server that runs them."""
