"""Estimate the memory, hours and GPU-hours of a run before it starts."""
