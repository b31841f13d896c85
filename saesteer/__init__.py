"""saesteer."""
