"""Measurements, and a log of their results."""
