"""Edits pictures with a trained model."""
