"""Benchmarks, under pytest-benchmark: ``make bench``. Rivals stand beside what they are measured against."""
