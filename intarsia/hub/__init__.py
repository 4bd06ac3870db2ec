"""Folders on the Hugging Face Hub: their cards, and sending and getting them."""
