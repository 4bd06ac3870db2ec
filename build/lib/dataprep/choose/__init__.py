"""Which boxes are kept, and the reason of each that is dropped."""
