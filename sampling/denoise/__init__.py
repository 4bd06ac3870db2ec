"""From noise to latents: condition, guidance, the denoise loop, and its device."""
