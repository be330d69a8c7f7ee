"""Resolve masked pronouns with a language model (Figure 4 of the paper)."""
