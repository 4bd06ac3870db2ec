"""The ground floor: the vocabulary everybody shares, and the model."""
