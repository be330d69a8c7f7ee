"""The project against its peers on the same work: one file for each comparison."""
