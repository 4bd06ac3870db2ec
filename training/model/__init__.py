"""Prepare the model for training: initialise, freeze parts, add adapters, compile."""
