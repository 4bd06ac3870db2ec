"""A run folder: its layout, its state, and one run at a time in it."""
