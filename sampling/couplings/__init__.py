"""What the target of an inversion takes from its source, inside the UNet and after a step."""
