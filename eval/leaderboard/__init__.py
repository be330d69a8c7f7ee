"""Compare every method on the same sentences."""
