"""Reproduce the paper's protocol, tables and claims."""
