"""Conditions of the UNet: each kind is one module and one row of a table."""
