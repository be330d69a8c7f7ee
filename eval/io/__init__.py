"""Read and write result files, and export trained models."""
