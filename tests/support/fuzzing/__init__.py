"""Hostile files for every reader, judged by one contract and counted."""
