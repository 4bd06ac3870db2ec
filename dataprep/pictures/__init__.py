"""Picture files: where they are, which file an annotation means, and one reader."""
