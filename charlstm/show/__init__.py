"""What a person sees of training: on a terminal, in a notebook, as curves."""
