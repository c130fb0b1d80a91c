"""What a run shows to people: progress, tables, plots and the verdict."""
