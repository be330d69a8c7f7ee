"""Means, intervals and paired tests over sentences."""
