"""Four worlds in which a round's clients are selected: phones, villages, clinics that open by day, presence that goes with labels."""

from __future__ import annotations

from typing import Any

SELECTIONS: dict[str, Any] = {name: name for name in ("uniform", "fast", "energy", "oort", "power_of_choice", "insight")}

_DIGITS = {"source": {"kind": "digits"}, "clients": 100, "partition": {"kind": "dirichlet", "alpha": 0.3, "minimum": 4}}

# A trained row of FLASH's CNN is 7,000 times the work of one of this perceptron, and its update has 2,700 times the bytes: devices and
# links are slower, and bytes take more energy, by as much.
_WORK, _BYTES = 7000, 2700
_SPEED = {"lognormal": {"median": 1.0 / _WORK, "sigma": 0.52}}
_ENERGY = {"power": 5.0, "per_byte": 1.04e-6 * _BYTES}
_WIFI = {"downlink": {"lognormal": {"median": 6.1 / _BYTES, "sigma": 1.1, "minimum": 0.1 / _BYTES, "maximum": 200 / _BYTES}}}

WORLDS: dict[str, dict[str, Any]] = {
    # Phones at all hours: speeds as FLASH has them, links as MobiPerf, the energy of about 30 turns.
    "phones": {
        "compute": {"speed": _SPEED},
        "network": _WIFI,
        "availability": {"kind": "diurnal", "mean": 0.5, "amplitude": 0.6, "phase": {"uniform": {"low": 0, "high": 1}}},
        "energy": {**_ENERGY, "battery": {"uniform": {"low": 1000, "high": 6000}}},
    },
    # Villages: links of 64 kbit/s and very different rates, there for a third of the time. The perceptron as it is.
    "villages": {
        "compute": {"speed": {"lognormal": {"median": 0.01, "sigma": 0.52}}},
        "network": {"downlink": {"lognormal": {"median": 0.064, "sigma": 1.1, "minimum": 0.004}}, "uplink_ratio": 0.5},
        "availability": {"kind": "markov", "on": 1200.0, "off": 2400.0},
        "energy": {"power": 5.0, "per_byte": 1e-5},
    },
    # Clinics: open by day, about the same hours, with computers of three generations and good links.
    "clinics": {
        "compute": {"speed": {"choices": [0.3 / _WORK, 1.0 / _WORK, 4.0 / _WORK]}},
        "network": {"downlink": 20 / _BYTES, "jitter": 0.1},
        "availability": {"kind": "diurnal", "mean": 0.4, "amplitude": 1.0, "phase": {"uniform": {"low": 0, "high": 0.1}}},
        "energy": {"power": 50.0, "per_byte": 1e-7 * _BYTES},
    },
    # Who has high labels alone is there often, the others rarely.
    "by_label": {
        "compute": {"speed": _SPEED},
        "network": _WIFI,
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
