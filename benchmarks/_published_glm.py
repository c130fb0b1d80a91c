"""Dobson's counts (An Introduction to Generalized Linear Models, 1990, page 93; the example of R's `?glm`), held by three clients."""

from __future__ import annotations

import numpy as np
from _published_runs import Bench, Figure, Found, federation, served
from torch import nn

from scarcity_ray.strategies.fed_glm import FedGlm
from scarcity_ray.training.local import Local

COUNTS = (18, 17, 15, 20, 10, 20, 25, 13, 12)
"""Row i has outcome i mod 3 and treatment i // 3."""
PUBLISHED = {
    "intercept": ("3.0445", "0.1709"),
    "outcome 2": ("-0.4543", "0.2022"),
    "outcome 3": ("-0.2930", "0.1927"),
    "treatment 2": ("0.0000", "0.2000"),
    "treatment 3": ("0.0000", "0.2000"),
}
DEVIANCE = "5.1291"


def glm(bench: Bench) -> Found:
    """Coefficients, standard errors and deviance of the Poisson regression; the clients hold 4, 3 and 2 of the rows."""
    places = np.arange(9)
    x = np.stack([places % 3 == 1, places % 3 == 2, places // 3 == 1, places // 3 == 2], axis=1)
    held = federation(x, np.array(COUNTS)[:, None], [4, 3, 2])
    server = served(FedGlm(family="poisson"), held, nn.Sequential(nn.Linear(4, 1)), Local(), 1)
    result = server.run_round(test=False)
    while not result.done:
        result = server.run_round(test=False)
    learned = result.learned
    figures = []
    for (name, (estimate, error)), row in zip(PUBLISHED.items(), learned["coefficients"], strict=True):
        figures.append(Figure(f"{name}: estimate", [round(row["estimate"], 9) + 0.0], estimate, form=".4f"))
        figures.append(Figure(f"{name}: standard error", [row["std_error"]], error, form=".4f"))
    figures.append(Figure("deviance", [learned["deviance"]], DEVIANCE, form=".4f"))
    same = sum(one.published == one.ours for one in figures)
    notes = [f"{same} of {len(figures)} are the published ones to all digits, after {learned['iterations']} rounds."]
    return Found(figures, notes)
