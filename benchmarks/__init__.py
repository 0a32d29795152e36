"""Benchmarks of dokocos, with the limit of the machine beside each figure."""
