"""The options of a training run, each defined once, and the presets."""
