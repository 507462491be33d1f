"""The run folder: starting, writing and resuming runs."""
