"""Trains the edit model under DeepSpeed."""
