"""The sections of the page, one a file: each takes the facts of a run and gives a panel, empty where the run has nothing for it."""
