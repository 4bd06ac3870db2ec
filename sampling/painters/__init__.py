"""Whatever paints edits: the own model first, and doors for others."""
