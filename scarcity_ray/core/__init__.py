"""What everything else is written in: strategies' contract, insights, federations, metrics, tables, randomness."""
