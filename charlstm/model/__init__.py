"""Checkpoint -> text and scores: a model at work."""
