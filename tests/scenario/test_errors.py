"""A field that is wrong is told with its line, its name, its value and the remedy, in the file's own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.spoiled import GOOD, dotted, problems_of

from scarcity_ray.core.strategy import STRATEGIES
from scarcity_ray.scenario import load
from scarcity_ray.scenario.words import join

KINDS = f"{', '.join(STRATEGIES.classes)} or import"
SAMPLED = join([kind for kind, cls in STRATEGIES.classes.items() if "fraction" in cls.model_fields], "and")

# (what is written, what is written in its place, line, field, what the message says)
BAD = {
    "rounds is a bool": ("rounds: 60", "rounds: true", 3, "rounds", ["is true; allowed: an integer of at least 1"]),
    "rounds is a fraction": ("rounds: 60", "rounds: 2.5", 3, "rounds", ["is 2.5; allowed: an integer of at least 1"]),
    "rounds is 0": ("rounds: 60", "rounds: 0", 3, "rounds", ["is 0; allowed: an integer of at least 1"]),
    "rounds in quotes": ("rounds: 60", 'rounds: "60"', 3, "rounds", ["is '60'; did you mean 60 without quotes?"]),
    "rounds is a list": ("rounds: 60", "rounds: [60]", 3, "rounds", ["is [60]; allowed: an integer"]),
    "rounds is empty": ("rounds: 60", "rounds:", 3, "rounds", ["is null; allowed: an integer"]),
    "rounds is left out": ("rounds: 60\n", "", 1, "rounds", ["is missing (communication rounds); allowed: an integer of at least 1"]),
    "seed below 0": ("seed: 7", "seed: -7", 2, "seed", ["is -7; allowed: an integer of at least 0"]),
    "seed with a leading zero": ("seed: 7", "seed: 007", 2, "seed", ["is '007'", "allowed: an integer"]),
    "name with a blank": ("name: good", "name: not good", 1, "name", ["is 'not good'; allowed: letters, digits, _ and -"]),
    "name is a number": ("name: good", "name: 7", 1, "name", ["is 7; allowed: letters, digits, _ and -"]),
    "repeats is 0": ("seed: 7", "seed: 7\nrepeats: 0", 3, "repeats", ["is 0; allowed: an integer of at least 1"]),
    "a key misspelt": (
        "rounds: 60",
        "rouns: 60",
        3,
        "rouns",
        ["is not a field here; did you mean rounds?", "allowed: name, question, seed, repeats"],
    ),
    "a key of another section": ("seed: 7", "lr: 0.1", 2, "lr", ["is not a field here; did you mean local.lr?"]),
    "a key nobody knows": ("seed: 7", "banana: 7", 2, "banana", ["is not a field here; allowed: name, question, seed, repeats, rounds"]),
    "a key inside a section": (
        "epochs: 5",
        "epoch: 5",
        10,
        "local.epoch",
        ["did you mean epochs?", "allowed: epochs, steps, batch_size, lr"],
    ),
    "a key twice": ("seed: 7", "seed: 7\nseed: 8", 3, "seed", ["is given twice, on line 2 and on line 3; keep one"]),
    "source left out": ("  source: {kind: digits}\n", "", 4, "data.source", ["is missing", "allowed: a mapping with kind: digits, "]),
    "source of no kind": ("{kind: digits}", "{}", 5, "data.source.kind", ["is missing; allowed: digits, "]),
    "source's kind misspelt": ("{kind: digits}", "{kind: digit}", 5, "data.source.kind", ["is 'digit'; did you mean digits?"]),
    "source without braces": ("{kind: digits}", "digits", 5, "data.source", ["is 'digits'; did you mean {kind: digits}?"]),
    "data is a list": ("data:\n  source:", "data: []\nx:\n  source:", 4, "data", ["is []; allowed: a mapping with source, clients"]),
    "clients is a bool": ("clients: 100", "clients: yes", 6, "data.clients", ["is 'yes'; allowed: an integer of at least 1, or null"]),
    "partition's kind": (
        "dirichlet,",
        "dirchlet,",
        7,
        "data.partition.kind",
        ["is 'dirchlet'; did you mean dirichlet?", "allowed: dirichlet"],
    ),
    "partition's field": ("alpha: 0.3", "alfa: 0.3", 7, "data.partition.alfa", ["did you mean alpha?", "allowed: kind, alpha, minimum"]),
    "another partition's field": (
        "alpha: 0.3",
        "alpha: 0.3, sigma: 1",
        7,
        "data.partition.sigma",
        ["is not a field of dirichlet but of quantity_skew; allowed: kind, alpha, minimum"],
    ),
    "alpha is 0": ("alpha: 0.3", "alpha: 0", 7, "data.partition.alpha", ["is 0; allowed: a number above 0"]),
    "alpha is NaN": ("alpha: 0.3", "alpha: .nan", 7, "data.partition.alpha", ["is .nan; allowed: finite numbers"]),
    "alpha overflows": ("alpha: 0.3", "alpha: 1e999", 7, "data.partition.alpha", ["is .inf; allowed: finite numbers"]),
    "alpha left out": ("dirichlet, alpha: 0.3", "dirichlet", 7, "data.partition.alpha", ["is missing", "allowed: a number above 0"]),
    "test_fraction is 1": (
        "test_fraction: 0.5",
        "test_fraction: 1",
        8,
        "data.test_fraction",
        ["is 1; allowed: a number of at least 0 and below 1"],
    ),
    "no training rows": (
        "test_fraction: 0.5",
        "test_fraction: 0.5\n  validation_fraction: 0.5",
        4,
        "data",
        ["test_fraction and validation_fraction leave no training rows"],
    ),
    "one transform, no list": (
        "test_fraction: 0.5",
        "transforms: {kind: rotate, groups: 3}",
        8,
        "data.transforms",
        ["did you mean [{kind: rotate, groups: 3}]?", "allowed: a list"],
    ),
    "five rotations": (
        "test_fraction: 0.5",
        "transforms: [{kind: rotate, groups: 5}]",
        8,
        "data.transforms.0.groups",
        ["is 5; allowed: an integer of at least 1 and at most 4"],
    ),
    "model without braces": ("{kind: mlp, hidden: [32]}", "mlp", 9, "model", ["is 'mlp'; did you mean {kind: mlp}?"]),
    "model's kind": ("kind: mlp", "kind: transformer", 9, "model.kind", ["is 'transformer'; allowed: linear, mlp, cnn or import"]),
    "hidden is a number": (
        "hidden: [32]",
        "hidden: 32",
        9,
        "model.hidden",
        ["is 32; did you mean [32]?", "each item an integer of at least 1"],
    ),
    "a hidden layer of 0": ("hidden: [32]", "hidden: [32, 0]", 9, "model.hidden.1", ["is 0; allowed: an integer of at least 1"]),
    "NaN in free arguments": (
        "{kind: mlp, hidden: [32]}",
        '{kind: import, path: "a:b", args: {x: [.inf]}}',
        9,
        "model.args.x.0",
        ["is .inf; allowed: finite numbers"],
    ),
    "no model": ("model: {kind: mlp, hidden: [32]}\n", "", 1, "model", ["is not given: needed by local_only, fed_avg"]),
    "no model, though asked for none": (
        "{kind: mlp, hidden: [32]}",
        "null",
        9,
        "model",
        ["is null: needed by local_only, fed_avg"],
    ),
    "optimizer in capitals": (
        "lr: 0.3",
        "lr: 0.3, optimizer: SGD",
        10,
        "local.optimizer",
        ["is 'SGD'; did you mean sgd? allowed: sgd or adam"],
    ),
    "lr is 0": ("lr: 0.3", "lr: 0.0", 10, "local.lr", ["is 0.0; allowed: a number above 0"]),
    "epochs and steps": ("epochs: 5", "epochs: 5, steps: 3", 10, "local", ["give epochs or steps, not both"]),
    "strategies is empty": (
        GOOD[GOOD.index("strategies:") : GOOD.index("evaluation:")],
        "strategies: []\n",
        11,
        "strategies",
        ["is []; allowed: a list of at least 1"],
    ),
    "strategy's kind": ("fed_avg", "FedAvg", 13, "strategies.1.kind", [f"is 'FedAvg'; did you mean fed_avg? allowed: {KINDS}"]),
    "strategy without kind": ("kind: fed_avg, ", "", 13, "strategies.1.kind", [f"is missing; allowed: {KINDS}"]),
    "strategy without braces": ("{kind: local_only}", "local_only", 12, "strategies.0", ["did you mean {kind: local_only}?"]),
    "fraction above 1": ("fraction: 0.1", "fraction: 10", 13, "strategies.1.fraction", ["is 10; allowed: a number above 0 and at most 1"]),
    "fraction for an insight strategy": (
        "kind: sf_hfe,",
        "kind: sf_hfe, fraction: 0.1,",
        14,
        "strategies.2.fraction",
        [f"is not a field of sf_hfe but of {SAMPLED}; allowed: kind, name"],
    ),
    "fraction and clients_per_round": (
        "fraction: 0.1",
        "fraction: 0.1, clients_per_round: 10",
        13,
        "strategies.1.clients_per_round",
        ["is 10: fraction is given too (0.1); keep one of them"],
    ),
    "a trunk trained for as long as the strategy lasts": (
        "{kind: random_fourier, features: 256}",
        "{kind: trunk, rounds: 60}",
        14,
        "strategies.2.representation.rounds",
        ["is 60: the strategy has 60 rounds, and at least one must follow those that train the trunk"],
    ),
    "rounds that end with the survey": (
        "kind: sf_hfe,",
        "kind: sf_hfe, rounds: 1,",
        14,
        "strategies.2.rounds",
        [
            "is 1: its representation takes 1 round (survey) before the strategy can learn; "
            "allowed: at least 2, or a number as representation.bandwidth"
        ],
    ),
    "rounds that end with the pilot": (
        "{kind: sf_hfe, representation: {kind: random_fourier, features: 256}}",
        "{kind: prototypes, rounds: 2, representation: {kind: random_fourier, bandwidth: evidence}}",
        14,
        "strategies.2.rounds",
        ["is 2: its representation takes 2 rounds (survey and pilot) before", "allowed: at least 3"],
    ),
    "the scenario's rounds end with the survey": (
        "rounds: 60",
        "rounds: 1",
        14,
        "strategies.2.rounds",
        ["is not given: the scenario's `rounds` is 1, and its representation takes 1 round (survey) before"],
    ),
    "the scenario's rounds, and a strategy's null": (
        GOOD[GOOD.index("rounds:") :],
        GOOD[GOOD.index("rounds:") :].replace("rounds: 60", "rounds: 1").replace("kind: sf_hfe,", "kind: prototypes, rounds: null,"),
        14,
        "strategies.2.rounds",
        ["is null: the scenario's `rounds` is 1, and its representation takes"],
    ),
    "more a round than there are": (
        "fraction: 0.1",
        "clients_per_round: 101",
        13,
        "strategies.1.clients_per_round",
        ["is 101: data.clients is 100; allowed: at most 100"],
    ),
    "two of a name": (
        "{kind: local_only}",
        "{kind: fed_avg}",
        13,
        "strategies.1.name",
        ["strategies.0 has that name too", "a different `name`"],
    ),
    "a strategy's own local training": (
        "fraction: 0.1",
        "local: {epochs: 2.0}",
        13,
        "strategies.1.local.epochs",
        ["is 2.0; allowed: an integer of at least 1, or null"],
    ),
    "a momentum where adam is the scenario's": (
        GOOD[GOOD.index("lr: 0.3}") :],
        GOOD[GOOD.index("lr: 0.3}") :].replace("lr: 0.3}", "optimizer: adam}").replace("fraction: 0.1", "local: {momentum: 0.5}"),
        13,
        "strategies.1.local.momentum",
        ["is 0.5: only sgd has momentum, and local.optimizer is adam; leave momentum out, or set `optimizer: sgd` here too"],
    ),
    "a strategy's own epochs and steps": (
        "fraction: 0.1",
        "local: {epochs: 2, steps: 3}",
        13,
        "strategies.1.local",
        ["give epochs or steps, not both"],
    ),
    "representation's kind": ("random_fourier", "fourier", 14, "strategies.2.representation.kind", ["did you mean random_fourier?"]),
    "evaluation of some": (
        "clients: all",
        "clients: some",
        15,
        "evaluation.clients",
        ["is 'some'; allowed: all or an integer of at least 1"],
    ),
    "evaluation of too many": (
        "clients: all",
        "clients: 101",
        15,
        "evaluation.clients",
        ["is 101: data.clients is 100; allowed: all, or at most 100"],
    ),
    "ray: no": ("ray: true", "ray: no", 16, "execution.ray", ["is 'no'; did you mean false? allowed: true or false"]),
    "cpus is 0": ("cpus: auto", "cpus: 0", 16, "execution.cpus", ["is 0; allowed: auto or an integer of at least 1"]),
    "cpus misspelt": ("cpus: auto", "cpus: aut", 16, "execution.cpus", ["is 'aut'; did you mean auto?"]),
    "actors and clients_per_actor": (
        "cpus: auto",
        "actors: 2, clients_per_actor: 50",
        16,
        "execution.clients_per_actor",
        ["is 50: actors is given too (2); keep one of them"],
    ),
    "more actors than clients": ("cpus: auto", "actors: 101", 16, "execution.actors", ["is 101: data.clients is 100"]),
    "an address without Ray": ("ray: true", "ray: false, address: auto", 16, "execution.address", ["is 'auto': ray is false"]),
    "device of another make": ("cpus: auto", "device: tpu", 16, "execution.device", ["is 'tpu'; did you mean cpu? allowed: cpu"]),
    "output without a directory": (
        "execution:",
        "output: runs/x\nexecution:",
        16,
        "output",
        ["is 'runs/x'; allowed: a mapping with directory"],
    ),
    "a Python object": (
        "seed: 7",
        "seed: !!python/object:os.system {}",
        2,
        "seed",
        ["has the tag !!python/object:os.system", "without tags"],
    ),
    "a list within itself": ("hidden: [32]", "hidden: &h [*h]", 9, "model.hidden.0", ["refers to itself through an alias"]),
    "a key that is a number": ("seed: 7", "7: seed", 2, "", ["has the key '7'; allowed as keys: printable text"]),
}


def test_the_scenario_that_is_spoiled_below_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    assert load(path).scenario.name == "good"


@pytest.mark.parametrize(("old", "new", "line", "field", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_scenario(old: str, new: str, line: int, field: str, words: list[str], tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "bad.yaml"
    problems = problems_of(path, GOOD.replace(old, new, 1))
    told = [problem for problem in problems if dotted(problem) == field and all(word in problem.message for word in words)]
    assert told, "\n".join(map(str, problems))
    assert told[0].place is not None
    assert (told[0].place.source, told[0].place.line) == (str(path), line)
    # The file's own words: nothing of pydantic's, and no second complaint about the same field.
    report = "\n".join(map(str, problems))
    assert "Input should" not in report
    assert "pydantic" not in report
    assert [dotted(problem) for problem in problems].count(field) == 1
