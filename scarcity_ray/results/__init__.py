"""What a run writes into its directory, and how that is read back."""
