"""Give hostile files to every reader, check one contract and count the results."""
