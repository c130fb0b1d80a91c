"""The answer in a few sentences: whether federating pays, how sure that is, for whom, for the next client, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scarcity_ray.core.metrics import headline
from scarcity_ray.inference.conclusion import Verdict
from scarcity_ray.report.units import listed, number, signed, size
from scarcity_ray.results.summary import NOT_FEDERATED

_FEW = 2
"""Clients whose interval says so little that it is no answer."""

SURE = 0.05
"""An adjusted p-value up to this is surely better."""

_ANSWERS = {
    Verdict.PAYS: "Federating pays",
    Verdict.HARMS_SOME: "Federating pays on average, but surely harms some",
    Verdict.UNCLEAR: "No clear gain",
    Verdict.DOES_NOT_PAY: "Federating does not pay",
}


def verdict(summary: Mapping[str, Any]) -> str:
    """The answer of summary.json (see Tally.summary): the best federated strategy against every client at its best alone.

    Claims go by the 95 % interval of the mean gain over clients, and a client is surely better or worse off by its own rows and what
    all clients' gains together say (see results.gains).
    """
    return " ".join(sentences(summary))


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The same, a sentence each; the first holds `answer`."""
    entries, found, shown = summary["strategies"], summary.get("best"), headline(summary["task"], summary.get("metric"))
    if nothing_learned(summary):
        return [f"{answer(summary)}, which reaches a {shown.mean} of {number(entries['guess'][shown.key])}."]
    if found is None:
        return [f"{answer(summary)}, so there is nothing to judge."]
    gain, names, conclusion = found["gain"], found["strategies"], found["conclusion"]
    reached = " or ".join(f"{number(entries[name][shown.key])} with {name}" for name in names)
    change = f"{shown.mean} {number(entries['alone'][shown.key])} alone, {reached}"
    said = [f"{answer(summary)}: {change}; {_interval(gain, conclusion)}."]
    if conclusion["weightings_disagree"]:
        said.append(f"Counted by test rows the mean gain is {signed(gain['by_row']['mean'])}: large clients differ from small ones.")
    cost = " or ".join(size(entries[name]["bytes_per_client"]) for name in names)
    needed = [] if gain["low"] is None else _needed(conclusion)  # of one client nobody knows
    clients = f"{gain['clients']:,} {'client' if gain['clients'] == 1 else 'clients'}"
    said += [for_whom(gain, clients), *needed, f"It takes {cost} a client.", *_next(gain)]
    if len(names) > 1:
        said.append(f"No single strategy is best: {' or '.join(names)}, and the gain is that of choosing on half of the test rows.")
    return [*said, *rivals(names, summary.get("comparisons", []))]


def answer(summary: Mapping[str, Any]) -> str:
    """The answer in a few words, without the stop."""
    if nothing_learned(summary):
        return learned_in_words(summary)
    if (found := summary.get("best")) is None:
        return "No federated strategy came to a result that can be compared"
    if found["conclusion"]["equal"] and summary.get("margin"):
        return f"Federating makes no difference beyond the margin of {number(summary['margin'])}"
    return _ANSWERS[Verdict(found["conclusion"]["verdict"])]


def nothing_learned(summary: Mapping[str, Any]) -> bool:
    """Whether no strategy is surely better than a guess: then it says nothing that some clients do better than they would alone."""
    best = summary.get("best")
    if best is None:  # then those that came to their end are all marked, if there are any
        return any(entry.get("not_learned") for entry in _federated(summary))
    return bool(best["conclusion"]["verdict"] == Verdict.NOTHING_LEARNED.value)


def learned_in_words(summary: Mapping[str, Any]) -> str:
    """What is said where `nothing_learned`, without the stop. The interval of two clients says little: where their mean is better than the
    guess, it only cannot be told."""
    over_guess = [((entry.get("gain") or {}).get("over_guess") or {}).get("mean") for entry in _federated(summary)]
    best = summary.get("best")
    above = best is not None and best["gain"]["clients"] <= _FEW and any(mean is not None and mean > 0 for mean in over_guess)
    head = "Whether anything was learned cannot be told" if above else "Nothing was learned"
    return f"{head}: no federated strategy is surely better than a guess"


def _federated(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in summary["strategies"].values() if entry.get("kind") not in NOT_FEDERATED]


def _interval(gain: Mapping[str, Any], conclusion: Mapping[str, Any]) -> str:
    if gain["low"] is None:
        return f"the gain is {signed(gain['mean'])} for one client, which does not tell how others would do"
    luck = ", for these trained models" if conclusion["given_models"] else ""
    return f"the mean gain is {signed(gain['mean'])} (95 % interval {signed(gain['low'])} to {signed(gain['high'])}{luck})"


def _needed(conclusion: Mapping[str, Any]) -> list[str]:
    """What would tell, where there is no clear gain."""
    words = {"repeats": "repeats", "test_rows": "test rows a client", "clients": "such clients"}
    if conclusion["needed"] is None:
        return []
    ways = [f"{count:,} {words[name]}" for name, count in conclusion["needed"].items() if count is not None]
    found = f"{' or '.join(ways)} would tell" if ways else "even a hundred times as many would not tell"
    return [f"If the mean gain stays as it is, {found}."]


def rivals(names: Sequence[str], comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which other strategies the best one is surely better than, by p-values that are adjusted for all pairs."""
    if len(names) > 1 or not comparisons:
        return []
    mine = [one for one in comparisons if names[0] in (one["better"], one["worse"])]
    sure = {one["worse"]: one for one in mine if one["better"] == names[0] and (one["p_holm"] if one["p_holm"] is not None else 1) <= SURE}
    rest = [one["worse"] if one["better"] == names[0] else one["better"] for one in mine if one not in sure.values()]
    pairs = "one pair" if len(comparisons) == 1 else f"{len(comparisons)} pairs"
    parts = [
        *([f"surely better than {listed(list(sure), 'and')}"] if sure else []),
        *([f"not surely better than {listed(rest, 'or')}"] if rest else []),
    ]
    return [f"{names[0]} is {', and '.join(parts)} (Holm's test of {pairs})."]


def for_whom(counts: Mapping[str, Any], clients: str) -> str:
    """How many are surely better and worse off. clients: all of them, in words."""
    better, worse, rest = (f"{counts[name]:,}" for name in ("surely_better", "surely_worse", "cannot_tell"))
    be = "is" if better == "1" else "are"
    return f"Of {clients} {better} {be} surely better off and {worse} surely worse off; for {rest} their rows cannot tell."


def _next(gain: Mapping[str, Any]) -> list[str]:
    if gain["next_low"] is None:
        return []
    return [f"The next client gains {signed(gain['next_low'])} to {signed(gain['next_high'])} (95 %)."]
