"""An edit and its picture: any size to the model's square and back, without a visible seam."""
