"""One edge weight a file: what has ``EDGES`` here is offered everywhere."""
