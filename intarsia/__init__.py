"""The types and functions that all packages share, and the model."""
