"""Score the tokens of sentences by every method."""
