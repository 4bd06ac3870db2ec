"""PIE-Bench: its cases and files, the edits of its table, their costs, and how results are treated."""
