"""A trained model: checkpoints, sampling and scoring."""
