"""The commands behind every number: see README.md."""
