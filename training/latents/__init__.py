"""Store latents next to the shards; `data/latents.py` reads them."""
