"""The commands of `python -m training` beside training itself, one module each."""
