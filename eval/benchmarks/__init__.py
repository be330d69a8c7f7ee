"""Time the project against other libraries on the same work."""
