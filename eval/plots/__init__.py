"""Draw figures: pure functions from data to a matplotlib figure, a file for each family."""
