"""The head of the page: the question, the answer, how sure it is, and three numbers."""

from __future__ import annotations

from typing import NamedTuple

from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.units import duration, short_number, signed, size
from scarcity_ray.report.verdict import answer, sentences


class Number(NamedTuple):
    """One of the three numbers: what it is, the number, and what it means."""

    what: str
    number: str
    meaning: str


class Answer(NamedTuple):
    """question, answer: a line each. sure: sentences. numbers: three, or none where there is no gain."""

    question: str
    answer: str
    sure: list[str]
    numbers: list[Number]


def answer_of(facts: Facts) -> Answer:
    """The head of the page."""
    summary = facts.summary
    question = summary.get("question") or f"Does federating pay for the {facts.clients_in_words} of {summary['scenario']}?"
    short, said = answer(summary), sentences(summary)
    first = said[0].removeprefix(f"{short}: ")  # which stands above it
    return Answer(question, f"{short}.", [first[0].upper() + first[1:], *said[1:]], _numbers(facts))


def _numbers(facts: Facts) -> list[Number]:
    best = facts.summary.get("best")
    if best is None or best["gain"]["mean"] is None:
        return []
    gain, entries = best["gain"], [facts.entries[name] for name in best["strategies"]]
    ends = "one client: no interval" if gain["low"] is None else f"95 % interval {signed(gain['low'])} to {signed(gain['high'])}"
    where = f"{facts.decides.short}, mean over clients"
    worse = "none is surely worse off" if not gain["surely_worse"] else f"{gain['surely_worse']:,} surely worse off"
    rest = f"for {gain['cannot_tell']:,} their rows cannot tell"
    rounds = max(entry["rounds"] for entry in entries)
    spent = f"a client sends and receives in {rounds:,.0f} {'round' if rounds == 1 else 'rounds'}" + _time(facts)
    return [
        Number("Gain", signed(gain["mean"]), f"{where}; {ends}"),
        Number("Who", f"{gain['surely_better']:,} of {gain['clients']:,}", f"clients are surely better off; {worse}; {rest}"),
        Number("Cost", " or ".join(size(entry["bytes_per_client"]) for entry in entries), spent),
    ]


def _time(facts: Facts) -> str:
    """Hours of the clock and joules a client, where the run counted some."""
    rounds = facts.rounds[facts.rounds["strategy"] == facts.summary["best"]["strategies"][0]]
    seeds, parts = rounds.groupby("seed"), []
    if (seconds := seeds["clock_seconds"].max().mean()) > 0:
        parts.append(f"in {duration(float(seconds))} of the simulated clock")
    if (joules := seeds["joules"].sum().mean() / facts.summary["clients"]) > 0:
        parts.append(f"for {short_number(float(joules))} J")
    return "".join(f", {part}" for part in parts)
