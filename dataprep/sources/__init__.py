"""Annotations in each format to columns of boxes; no pixels are read."""
