"""How time and memory of an evaluation in shards grow; see `tests/scale`."""
