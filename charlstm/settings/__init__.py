"""What a run is asked to be: every option once, and the presets."""
