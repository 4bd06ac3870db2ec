"""What the UNet is told besides the noisy latents; each kind of condition is one module and one row."""
