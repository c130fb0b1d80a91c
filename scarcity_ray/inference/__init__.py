"""How sure a gain is: intervals, shrinkage, tests and the conclusion, as pure functions of arrays. No I/O, no torch."""
