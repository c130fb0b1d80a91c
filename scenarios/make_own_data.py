"""Writes own_data.csv, an invented table of twenty hospitals: `python scenarios/make_own_data.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

WARDS = ("heart", "lung", "bones", "surgery")
WARD_RISK = np.array([0.6, 0.4, -0.8, -0.2])


def hospitals(seed: int = 1, number: int = 20) -> pa.Table:
    """One row per stay. Hospitals differ in size (16 to 200 stays), in their patients and in how risk depends on age."""
    draw = np.random.default_rng(seed)
    tables = []
    for hospital in range(number):
        stays = int(np.clip(draw.lognormal(3.7, 0.8), 16, 200))
        ward = draw.choice(len(WARDS), size=stays, p=draw.dirichlet([1.5] * len(WARDS)))
        age = np.clip(draw.normal(62 + draw.normal(0, 5), 15, stays), 18, 99).round()
        sex = draw.choice(["f", "m"], size=stays)
        nights = 1 + draw.poisson(4 + 2 * (ward == WARDS.index("surgery")), stays)
        earlier = draw.poisson(0.8, stays)
        haemoglobin = draw.normal(13.2 + 0.9 * (sex == "m"), 1.6, stays).round(1)
        risk = 0.04 * (age - 65) + WARD_RISK[ward] + 0.8 * earlier + 0.06 * nights - 0.25 * (haemoglobin - 13.5) - 1.2
        risk += draw.normal(0, 0.5) + 0.02 * draw.normal() * (age - 65)  # this hospital's own level, and its own effect of age
        readmitted = np.where(draw.random(stays) < 1 / (1 + np.exp(-risk)), "yes", "no")
        columns = {
            "hospital": [f"hospital_{hospital + 1:02d}"] * stays,
            "age": age.astype(np.int64),
            "sex": sex,
            "ward": np.array(WARDS)[ward],
            "nights": nights,
            "earlier_stays": earlier,
            "haemoglobin": haemoglobin,
            "readmitted": readmitted,
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


if __name__ == "__main__":
    path = Path(__file__).with_name("own_data.csv")
    table = hospitals()
    pyarrow.csv.write_csv(table, path)
    print(f"{table.num_rows:,} stays in 20 hospitals: {path}")
