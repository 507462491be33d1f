"""Searches over options by any number of processes and machines that share a folder."""
