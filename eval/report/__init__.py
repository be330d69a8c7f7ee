"""Format numbers and tables for terminals, Markdown, CSV and JSON."""
