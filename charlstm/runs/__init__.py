"""The run folder: begun, written, found again."""
