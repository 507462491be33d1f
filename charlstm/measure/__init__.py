"""The speed of training and sampling on this machine, and its hardware limits."""
