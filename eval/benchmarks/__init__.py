"""Timing of the project against its peers on the same work."""
