"""The training loop: one iteration after the other, until a budget is used up."""
