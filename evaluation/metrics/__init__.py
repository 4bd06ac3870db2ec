"""Numbers of a report: what each needs, its recipe, and its values of cases and of sets."""
