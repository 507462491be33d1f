"""The display of training: on a terminal, in a notebook, as JSON, and as plots."""
