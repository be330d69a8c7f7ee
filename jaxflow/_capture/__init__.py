"""Take the attention out of any JAX function."""
