"""Editing methods that start from the picture instead of noise."""
