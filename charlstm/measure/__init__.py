"""How fast this machine is, and how fast it could be."""
