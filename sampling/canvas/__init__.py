"""A picture of any size onto the model's square and back, without a visible seam."""
