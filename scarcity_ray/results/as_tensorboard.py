"""A run's rounds as events of TensorBoard, to be looked at beside other trainings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from scarcity_ray.baselines import ALONE, GUESS
from scarcity_ray.results.reading import believing, inside
from scarcity_ray.results.results import Results
from scarcity_ray.results.seed_rows import seed_rows, single

EVENTS = "events.out.tfevents.*"
"""The files of events, by TensorBoard's own pattern."""

_COSTS = ("uplink_bytes", "downlink_bytes", "seconds", "wasted_bytes", "joules")
_WHO = ("strategy", "seed", "round", "clock_seconds")


def write_events(results: Results, folder: Path) -> list[Path]:
    """Writes a file of events to STRATEGY/seedSEED for each strategy and seed, and returns these folders. Their earlier events are removed.

    Scalars by round, in single precision: the columns of `rounds` that have a value, under metrics/, costs/ (bytes, seconds, joules, and
    hours of the simulated clock) and rounds/ (train_loss, and who took part). The numbers at the end under final/, with the strategy's
    settings as hyperparameters. An event has the time at which its round ended.

    Raises ImportError where TensorBoard is not installed, before anything is written; RunError; and OSError.
    """
    from torch.utils.tensorboard import SummaryWriter  # it needs TensorBoard, an extra
    from torch.utils.tensorboard.summary import hparams

    rounds, ends, settings = results.frame("rounds"), seed_rows(results), _settings(results)
    with believing(results.directory / "environment.json"):
        start = datetime.fromisoformat(results.environment["started_at"]).timestamp()
    with believing(results.directory / "summary.json"):
        # Its names may be anybody's: none of them leads out of the folder.
        places = [inside(folder, f"{end['strategy']}/seed{end['seed']}") for end in ends]
        finals = [{f"final/{key}": float(value) for key, value in end.items() if _is_number(value) and key != "seed"} for end in ends]
    for place, end, final in zip(places, ends, finals, strict=True):
        name, seed = end["strategy"], end["seed"]
        rows = rounds[(rounds["strategy"] == name) & (rounds["seed"] == seed)].sort_values("round")
        times = start + rows["seconds"].cumsum().to_numpy()
        for old in place.glob(EVENTS):
            old.unlink()
        with SummaryWriter(str(place)) as writer:
            for tag, values in _by_round(rows).items():
                for number, value, time in zip(rows["round"], values, times, strict=True):
                    if not np.isnan(value):
                        writer.add_scalar(tag, value, int(number), walltime=float(time))
            last, at = (int(rows["round"].iloc[-1]), float(times[-1])) if len(rows) else (0, start)
            described: Any = hparams({"strategy": name, "seed": seed, **settings.get(name, {})}, final)  # type: ignore[no-untyped-call]
            for summary in described:
                writer.file_writer.add_summary(summary, walltime=at)
            for tag, value in final.items():
                writer.add_scalar(tag, value, last, walltime=at)
    return places


def _by_round(rows: Any) -> dict[str, Any]:
    """The numbers of a strategy's rounds under their tags."""
    found = {}
    for column in rows.columns:
        if column not in _WHO and rows[column].notna().any():
            group = "costs" if column in _COSTS else "metrics" if column.startswith(("test_", "validation_")) else "rounds"
            found[f"{group}/{column}"] = rows[column].astype(float)
    if rows["clock_seconds"].notna().any():
        found["costs/hours"] = rows["clock_seconds"] / 3600
    return found


def _settings(results: Results) -> dict[str, dict[str, Any]]:
    """The settings of each strategy in the scenario that are words, numbers, true or false."""
    names = [name for name in results.summary["strategies"] if name not in (ALONE, GUESS)]
    with believing(results.directory / "scenario.yaml"):
        listed = list(results.scenario["strategies"])
        return {
            name: {key: float(value) if _is_number(value) else value for key, value in single(one).items() if value is not None}
            for name, one in zip(names, listed, strict=True)
            if isinstance(one, Mapping)
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
