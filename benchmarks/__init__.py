"""Benchmarks, under pytest-benchmark: ``make bench``. They also measure the rivals that charlstm is compared with."""
