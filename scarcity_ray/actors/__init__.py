"""The actors, as plain classes: usable by hand, and made Ray actors by the fleet of a run."""
