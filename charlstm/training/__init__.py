"""The training loop, its budgets, schedules and evaluations."""
