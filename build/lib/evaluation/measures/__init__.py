"""Numbers of one picture or one pair, and the networks they need, each with its recipe."""
