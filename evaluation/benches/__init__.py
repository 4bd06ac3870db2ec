"""Published and own benches: their cases, their layout, their published numbers."""
