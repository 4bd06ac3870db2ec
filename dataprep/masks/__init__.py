"""The shapes of edit masks that a recipe may draw: one module for each kind."""
