"""The commands of `python -m sampling`, one module each."""
