"""Benchmarks: each figure is a ratio to another program in the same run. Not part of the package."""
