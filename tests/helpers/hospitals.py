"""Stays at hospitals: a table with a column that names the client."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

SITES = ("north", "south", "east", "west", "hill", "coast")


def hospital_rows(rows: int = 120, seed: int = 0) -> pa.Table:
    """Stays in days by age, dose and ward, with a level of its own for each site."""
    rng = np.random.default_rng(seed)
    site, ward = rng.integers(0, len(SITES), rows), rng.integers(0, 3, rows)
    age, dose = rng.uniform(20, 90, rows), rng.uniform(0, 2, rows)
    days = 3 + 0.05 * age + 2 * dose + np.array([0.0, 1.5, -1.0])[ward] + 0.8 * (site - 2.5) + 0.3 * rng.standard_normal(rows)
    return pa.table({
        "site": [SITES[i] for i in site], "ward": [("a", "b", "c")[i] for i in ward], "age": age, "dose": dose, "days": days,
    })  # fmt: skip
