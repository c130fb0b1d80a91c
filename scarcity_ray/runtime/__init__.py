"""A scenario brought to its end: plan, actors, rounds, failures, and the processes that they run in."""
