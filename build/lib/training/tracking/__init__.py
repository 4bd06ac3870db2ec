"""What a run says while it goes on: losses, speed, previews, validation, W&B."""
