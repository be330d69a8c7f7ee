"""Explain one prediction, as text, page, picture and JSON."""
