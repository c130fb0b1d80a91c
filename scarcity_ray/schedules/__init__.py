"""Who takes part in a round: one rule a file."""
