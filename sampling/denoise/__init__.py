"""From noise to latents: condition, guidance, the loop, and the machine it runs on."""
