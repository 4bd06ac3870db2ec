"""Plain implementations with the usual libraries, for comparison."""
