"""Benchmarks of charlstm and of its rivals, run by pytest-benchmark: ``make bench``."""
