"""Explanations as people look at them: one file for each form."""
