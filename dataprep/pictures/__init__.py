"""Picture files: where they lie, which file an annotation means, and one decode."""
