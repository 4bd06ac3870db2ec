"""Fit a picture of any size to the model's square and back, without a visible seam."""
