"""Checkpoints that are whole or not there; continuing on any number of ranks."""
