"""Editing that starts from the picture instead of noise."""
