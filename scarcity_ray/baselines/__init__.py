"""What every federation is compared with: a client at its best alone, and a guess that needs no model."""

ALONE, GUESS = "alone", "guess"
"""Their names in tables, which no strategy may have."""
