"""What a run leaves and shows: tables, models, summary, curves, the display while it runs and the table at its end."""
