"""Records of a running run: losses, speed, previews, validation, W&B."""
