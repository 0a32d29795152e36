"""Tests of the benchmarks' harness; the figures themselves are taken by hand."""
