"""Boxes and pictures to sharded samples."""
