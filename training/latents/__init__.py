"""Latents that are stored once beside the shards; `data/latents.py` reads them."""
