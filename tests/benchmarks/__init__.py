"""Tests of the benchmarks' code; the figures are measured by hand."""
