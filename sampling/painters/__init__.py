"""Painters: our own model, and the interface for others."""
