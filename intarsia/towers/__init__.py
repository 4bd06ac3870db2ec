"""Frozen image towers that look at the exemplar: each is one module and one row of a table."""
