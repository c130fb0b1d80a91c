"""How a scenario is played to its end: plan, actors, the loop over rounds with its observers, failures, and processes."""
