"""Evaluate a whole corpus in shards, in any number of processes."""
