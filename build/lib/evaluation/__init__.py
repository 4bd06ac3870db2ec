"""Published metrics, computed as published."""
