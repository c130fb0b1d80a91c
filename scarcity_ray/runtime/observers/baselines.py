"""The baselines of a run in its tables: each client at its best alone, and a guess; once for each seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from scarcity_ray.baselines import ALONE
from scarcity_ray.core import metrics
from scarcity_ray.metrics.predictions import PredictionStat
from scarcity_ray.metrics.tested_rows import tested_rows
from scarcity_ray.results.recorder import Recorder
from scarcity_ray.results.summary import Tally
from scarcity_ray.runtime.gains import gain_columns
from scarcity_ray.runtime.observers.base import Observer, StrategyRun, in_the_users_words
from scarcity_ray.training.evaluate import gathered


class Baselines(Observer):
    """Adds `guess` and `alone` to the clients table and to the summary, before the first strategy of a seed."""

    def __init__(self, recorder: Recorder, tally: Tally) -> None:
        self.recorder, self.tally = recorder, tally

    def on_strategy_start(self, run: StrategyRun) -> None:
        if ALONE in self.tally.ended(run.seed):
            return
        plan, ids = run.plan, run.plan.evaluated
        federation = plan.federation.at(plan.last)
        for name, baseline in plan.baselines.items():
            who = {"strategy": name, "seed": run.seed, "round": plan.last}
            columns: dict[str, Any] = {
                "client_id": ids,
                "client": federation.own_names(ids),
                "group": federation.group[ids],
                "num_train": federation.train.counts[ids],
                "num_test": federation.test.counts[ids],
                **metrics.client_columns(baseline.stats),
                **dict.fromkeys(("uplink_bytes", "downlink_bytes"), np.full(len(ids), baseline.bytes)),
            }
            if name != ALONE:
                alone, own = (tested_rows(one.stats) for one in (plan.baselines[ALONE], baseline))
                columns |= gain_columns(plan.headline(), alone, own, ids, run.seed)
            self.tally.begin(name, name, run.seed)
            self.recorder.clients({**who, **columns})
            if (answers := gathered(baseline.stats, PredictionStat)) is not None:
                where = {key: who[key] for key in ("strategy", "seed")}
                self.recorder.predictions(where | in_the_users_words(answers.columns(), federation))
            self.tally.evaluated({**who, **metrics.round_columns(baseline.stats, columns["num_test"])}, columns)
            self.tally.traffic(name, run.seed, *(baseline.bytes * federation.clients,) * 2)
            self.tally.end(name, run.seed, "finished", self.recorder.result_hash(name, run.seed))
