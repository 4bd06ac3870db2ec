"""Who am I among the ranks, how all stop together, and which rank keeps the others waiting."""
