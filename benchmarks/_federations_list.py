"""The twenty real federations of the benchmark, and the two halves they are in: those that may set rules, and those that only judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scarcity_ray.data import federations
from scarcity_ray.data.federations import Real


def authorities(table: Any) -> Any:
    """The schools of the first 25 local authorities of Chem97: a tenth, which keeps the benchmark below half an hour."""
    return table[table["lea"] <= 25]


def patients(table: Any) -> Any:
    """rhDNase has one row an infection. This is one row a patient, with `infected`: 1 where it has at least one with a known start."""
    first = table.drop_duplicates("id")
    infected = table.groupby("id")["ivstart"].any()
    return first.assign(infected=infected.loc[first["id"]].astype(int).to_numpy())


MADE: dict[str, Callable[[Any], Any]] = {"mlmRev/Chem97": authorities, "survival/rhDNase": patients}
"""What makes the rows of some of them from their tables."""

_RHDNASE = Real(
    "survival",
    "rhDNase",
    647,
    51,
    "inst",
    "infected",
    "",
    ("trt", "fev"),
    "id; dates; ivstart, ivstop: the label itself",
    "infection of patients",
)
_ALL = {**federations.REALS, _RHDNASE.name: _RHDNASE}

TUNING = tuple(
    _ALL[name]
    for name in (
        "mlmRev/Chem97",
        "mlmRev/Exam",
        "mlmRev/Gcsemv",
        "MASS/nlschools",
        "lme4/Penicillin",
        "nlme/Oxboys",
        "nlme/BodyWeight",
        "Ecdat/Cigar",
        "AER/Fatalities",
        "COUNT/medpar",
    )
)
"""Federations on which rules and constants may be set. Five of them have been used so before, so they cannot judge: Chem97, Fatalities,
BodyWeight, Oxboys and medpar; the others are chosen so that both lists have classes, schools, growth, panels, small and large tables."""

JUDGING = tuple(
    _ALL[name]
    for name in (
        "mlmRev/ScotsSec",
        "mlmRev/Mmmec",
        "mlmRev/star",
        "lme4/sleepstudy",
        "HLMdiag/radon",
        "stevedata/Dee04",
        "nlme/Orthodont",
        "plm/Produc",
        "datasets/ChickWeight",
        "survival/rhDNase",
    )
)
"""Federations on which rules are only judged. No constant may be chosen by them."""

QUICK = ("nlme/Oxboys", "lme4/Penicillin", "COUNT/medpar", "lme4/sleepstudy")
"""Four small ones, of both lists."""

REALS = {real.name: real for real in (*TUNING, *JUDGING)}
