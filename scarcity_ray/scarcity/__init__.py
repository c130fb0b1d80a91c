"""What is scarce: devices' speed, links, presence, energy and budgets, on a simulated clock that no real time touches."""
