"""Annotations as they come: each format to columns of boxes; no pixels are read."""
