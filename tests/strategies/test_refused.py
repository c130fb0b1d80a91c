"""Settings of the baselines that cannot work are refused before anything starts, with the field, the value and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.scenarios import scenario

from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.scenario.diagnostics import SpecErrors

MEDIAN = {"kind": "import", "path": "helpers.user_transforms:CoordinateMedian"}
SIGN = {"kind": "import", "path": "helpers.user_transforms:Sign"}
LATE = {"kind": "import", "path": "helpers.user_schedules:LateHalf"}


@pytest.mark.parametrize(("strategy", "local", "why"), [
    ({"kind": "fed_prox", "mu": 20.0}, {}, r"mu is 20.0: with steps of 0.1 it has to be below 10: use a smaller mu or a smaller local.lr"),
    ({"kind": "ditto", "lam": 3.0}, {"weight_decay": 12.0}, r"lam is 3.0: .* no lam is small enough beside a weight_decay of 12"),
    ({"kind": "pfed_me", "personal_lr": 0.1}, {}, r"lam is 15.0: with steps of 0.1 it has to be below 10: .* or a smaller personal_lr"),
    ({"kind": "pfed_me"}, {"momentum": 0.5}, r"local.momentum is 0.5: the steps of pfed_me have no momentum: set it to 0"),
    ({"kind": "q_ffl"}, {"momentum": 0.5}, r"local.momentum is 0.5: .*: set it to 0"),
    ({"kind": "fed_nova", "mu": 0.1}, {"momentum": 0.5}, r"mu is 0.1: .* use one of them"),
    ({"kind": "fed_opt", "method": "yogi", "bias_correction": True}, {}, r"bias_correction is True: yogi .* leave it out"),
    ({"kind": "fed_opt", "method": "adagrad", "beta_2": 0.9}, {}, r"beta_2 is 0.9: .* leave beta_2 out"),
    ({"kind": "fed_dyn", "schedule": LATE}, {}, r"schedule is 'late_half': .* use uniform"),
    ({"kind": "q_ffl", "schedule": LATE}, {}, r"schedule is 'late_half': .* use uniform"),
    ({"kind": "scaffold", "uplink": [SIGN]}, {}, r"uplink is \['sign'\]: scaffold computes with exact sums"),
    ({"kind": "fed_dyn", "aggregation": MEDIAN}, {}, r"aggregation is 'coordinate_median': fed_dyn computes with exact sums .* use mean"),
    ({"kind": "fed_glm", "aggregation": MEDIAN}, {}, r"aggregation is 'coordinate_median': fed_glm computes with exact sums .* use mean"),
    ({"kind": "fed_partial", "private": "norms"}, {}, r"private is 'norms': the model has no norm layer"),
    ({"kind": "fed_partial", "private": ["0", "nine"]}, {}, r"private is \['0', 'nine'\]: the model has no parameter or module 'nine'"),
    ({"kind": "fed_per", "model": {"kind": "linear"}}, {}, r"private is 'head': that is the whole model, so nothing is shared"),
    ({"kind": "fed_partial", "shared_epochs": 2}, {}, r"shared_epochs is 2: .* or use `order: alternate`"),
])  # fmt: skip
def test_it_is_refused(strategy: dict[str, Any], local: dict[str, Any], why: str, tmp_path: Path) -> None:
    read = parse(scenario(strategies=[strategy], local={"lr": 0.1, **local}))
    with pytest.raises((SpecError, SpecErrors), match=why):
        prepare(read, tmp_path)


def test_what_weighs_nothing_is_not_too_steep(tmp_path: Path) -> None:
    read = parse(scenario(strategies=[{"kind": "fed_prox", "mu": 0.0}, {"kind": "fed_nova"}], local={"lr": 1.0, "weight_decay": 1.5}))
    assert prepare(read, tmp_path).problems
