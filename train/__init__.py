"""jaxflow."""
