"""Clients in hidden groups: are the groups found and counted, what is that worth, and can new clients be served?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from _common import HERE
from _ensemble_digits import data as skewed
from _ensemble_runs import Bench, Found, Row, Run, Tuned, all_tuned, figure, grid, groups, moments, of_all, sent, that_fit

BUDGET = 174_080
WAYS = ("router", "oracle", "global", "average")


def data(*transforms: dict[str, Any], **more: Any) -> dict[str, Any]:
    """60 clients with 14 or 15 training images each, split at random."""
    return {
        "source": {"kind": "digits"},
        "clients": 60,
        "partition": {"kind": "iid"},
        "transforms": list(transforms),
        "test_fraction": 0.5,
        **more,
    }


def rotated(bench: Bench) -> Found:
    """Three rotations, split at random and as in the shipped scenario, with competitors; other groups, and none; new clients."""
    seeds = bench.some(bench.seeds if bench.quick else 2 * bench.seeds)
    three = {"kind": "rotate", "groups": 3}
    (features,) = that_fit(bench, data(three), [BUDGET])
    name = f"sf_hfe_{features}"
    shipped = yaml.safe_load((HERE.parent / "scenarios" / "rotated.yaml").read_text())
    main = {"three rotations, iid": data(three), "three rotations, Dirichlet 0.3": shipped["data"]}
    others = {
        "four rotations, iid": data({"kind": "rotate", "groups": 4}),
        "labels permuted in 3 groups, iid": data({"kind": "permute_labels", "groups": 3}),
        "no groups, iid": data(),
        "no groups, 100 clients, Dirichlet 0.3": skewed(0.3),
    }
    if bench.quick:
        del main["three rotations, Dirichlet 0.3"]
        others = {"no groups, iid": data()}
    federations = {**main, **others, "strangers": data(three, held_out_clients=0.1)}
    most = {"max_experts": 4} if bench.quick else {}
    scenarios = {title: {"rounds": 3, "data": dealt, "strategies": [moments(features, **most)]} for title, dealt in federations.items()}
    played = bench.plays(scenarios, seeds)

    rows, notes = [], []
    for title, dealt in main.items():
        runs, neighbours = played[title], _neighbours(bench, dealt, bench.some(bench.seeds), rounds=20 if bench.quick else 60)
        accuracy, worst = (of_all(runs, name, metric) for metric in ("test_accuracy", "test_accuracy_worst_decile"))
        rows += [
            figure(f"{title}: sf_hfe, {features} features", accuracy, at_least=0.945, bytes=sent(runs, name), budget=BUDGET),
            figure(f"{title}: worst tenth", worst, at_least=0.80),
            *groups(title, runs, name, 3, bars=True),
            *(figure(f"{title}: {kind}", one.accuracy, bytes=one.bytes) for kind, one in neighbours.items()),
        ]
        notes += [f"{title}: {one.words}" for one in neighbours.values()]
    for title in others:
        runs = played[title]
        true = len(set(runs[0].clients(name)["group"]))
        rows.append(figure(f"{title}: sf_hfe", of_all(runs, name, "test_accuracy"), bytes=sent(runs, name)))
        rows += groups(title, runs, name, true, bars=True)
    return Found(rows + _strangers(played["strangers"], name), notes)


def _strangers(runs: Sequence[Run], name: str) -> list[Row]:
    """Accuracy on the rows of clients that never took part, by which model predicts."""
    fares = {way: of_all(runs, name, "strangers", way) for way in WAYS}
    lost = [best - routed for best, routed in zip(fares["oracle"], fares["router"], strict=True)]
    rows = [figure(f"strangers, three rotations: {way}", values) for way, values in fares.items()]
    return [*rows, figure("strangers: what the router loses to the oracle", lost, at_most=0.01)]


def fedem(bench: Bench) -> Found:
    """FedEM's mixture: a client belongs to several groups at once, and labels are nearly linear in the inputs. 100 of its 300
    clients, to keep the competitors' runs short."""
    seeds = bench.some(min(3, bench.seeds))
    dealt: dict[str, Any] = {"source": {"kind": "fedem"}, "clients": 24 if bench.quick else 100, "test_fraction": 0.5}
    ours = {"kind": "sf_hfe", "representation": {"kind": "identity"}, "max_experts": 5}
    runs = bench.runs({"rounds": 3, "data": dealt, "strategies": [ours]}, seeds)
    neighbours = _neighbours(bench, dealt, seeds, rounds=10 if bench.quick else 20, hidden=(0,), batch_size=32)
    accuracy = of_all(runs, "sf_hfe", "test_accuracy")
    less = [value - other for value, other in zip(accuracy, neighbours["ifca"].accuracy, strict=True)]
    rows = [
        figure("sf_hfe, identity", accuracy, bytes=sent(runs, "sf_hfe")),
        figure("sf_hfe, identity, less ifca", less, at_least=0),
        *groups("sf_hfe, identity", runs, "sf_hfe", 3, bars=False),
        *(figure(kind, one.accuracy, bytes=one.bytes) for kind, one in neighbours.items()),
    ]
    notes = ["a client's group is the component it draws most of its labels from", *(one.words for one in neighbours.values())]
    return Found(rows, notes)


def _neighbours(bench: Bench, dealt: dict[str, Any], seeds: range, rounds: int, **settings: Any) -> dict[str, Tuned]:
    """The competitors: FedAvg, IFCA with three models and every client alone, with tuned step size and number of rounds."""
    steps = (0.3,) if bench.quick else (0.1, 0.3, 0.5)
    own: dict[str, dict[str, Any]] = {"fed_avg": {}, "ifca": {"experts": 3}, "local_only": {}}
    kinds = {kind: grid(kind, steps, **more, **settings) for kind, more in own.items()}
    return all_tuned(bench, dealt, rounds, kinds, seeds)
