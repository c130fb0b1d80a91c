"""Four worlds in which a round's clients are selected: phones, villages, clinics that open by day, presence that goes with labels."""

from __future__ import annotations

from typing import Any

SELECTIONS: dict[str, Any] = {name: name for name in ("uniform", "fast", "energy", "oort", "power_of_choice", "insight")}

_DIGITS = {"source": {"kind": "digits"}, "clients": 100, "partition": {"kind": "dirichlet", "alpha": 0.3, "minimum": 4}}
_ENERGY = {"power": 5.0, "per_byte": 1.04e-6}

WORLDS: dict[str, dict[str, Any]] = {
    # Phones at night: speeds as FLASH has them, links as MobiPerf, a battery for some tens of turns.
    "phones": {
        "compute": {"speed": {"lognormal": {"median": 0.001, "sigma": 0.52}}},
        "network": {},
        "availability": {"kind": "diurnal", "mean": 0.5, "amplitude": 0.6, "phase": {"uniform": {"low": 0, "high": 86400}}},
        "energy": {**_ENERGY, "battery": {"uniform": {"low": 100, "high": 600}}},
    },
    # Villages: slow links of very different rates, which are up for a third of the time.
    "villages": {
        "compute": {"speed": {"lognormal": {"median": 0.003, "sigma": 0.52}}},
        "network": {"downlink": {"lognormal": {"median": 0.064, "sigma": 1.1, "minimum": 0.004}}, "uplink_ratio": 0.5},
        "availability": {"kind": "markov", "on": 1200.0, "off": 2400.0},
        "energy": _ENERGY,
    },
    # Clinics: all open at about the same hours, with computers of three generations.
    "clinics": {
        "compute": {"speed": {"choices": [0.0003, 0.001, 0.004]}},
        "network": {"downlink": 10.0},
        "availability": {"kind": "diurnal", "mean": 0.4, "amplitude": 1.0, "phase": {"uniform": {"low": 0, "high": 7200}}},
        "energy": _ENERGY,
    },
    # Who has only high labels is rarely there.
    "by_label": {
        "compute": {"speed": {"lognormal": {"median": 0.001, "sigma": 0.52}}},
        "network": {},
        "availability": {"kind": "bernoulli", "by_label": {"low": 0.1, "high": 0.9}},
        "energy": _ENERGY,
    },
}


def scenario(world: str, seed: int, rounds: int, every: int) -> dict[str, Any]:
    """A run of all selections in a world."""
    strategies = [
        {"kind": "fed_avg", "name": name, "clients_per_round": 10, "selection": selection} for name, selection in SELECTIONS.items()
    ]
    return {
        "name": f"selection-{world}",
        "seed": seed,
        "rounds": rounds,
        "data": _DIGITS,
        "model": {"kind": "mlp", "hidden": [32]},
        "local": {"epochs": 5, "lr": 0.1, "batch_size": 10},
        "scarcity": WORLDS[world],
        "strategies": strategies,
        "evaluation": {"every": every},
        "execution": {"ray": False},
    }
