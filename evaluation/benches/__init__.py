"""Published benches and lists of a user: cases, layout, commands' options."""
