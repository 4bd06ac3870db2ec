"""Scripts that measure speed and memory, and a log of their results."""
