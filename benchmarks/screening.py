"""Screening of clients' messages: what do copies and wrong units cost, what of it is saved, and how often are honest clients accused?

python benchmarks/screening.py            # ten minutes on a quiet core
python benchmarks/screening.py --quick    # two
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import show, write_json
from _screening_worlds import DEALT, MADE, Rows, honest
from torch import nn

from scarcity_ray import simulate
from scarcity_ray.actors.expert import Expert
from scarcity_ray.core.exchange import ServerState
from scarcity_ray.ensemble.moments import Moments, Packing, with_constant
from scarcity_ray.ensemble.personal import personal_head
from scarcity_ray.ensemble.representation import RandomFourier, bandwidth, survey
from scarcity_ray.ensemble.screening import Screened, screen, screen_surveys
from scarcity_ray.strategies.sf_hfe import SfHfe
from scarcity_ray.training.local import Local
from scarcity_ray.training.problem import make_problem

CLIENTS, WRONG = 40, 7
MISTAKES = ("none", "two names", "inputs x 1000", "one input x 1000", "inputs x 100", "inputs x 0.001", "targets x 1000", "targets x 0.001")
WAYS = ("off", "weigh", "refuse")
FEATURES = 64


@dataclass(frozen=True)
class Harm:
    """Means over seeds, with half the width of a 95 % interval. head: squared distance of the first expert's head from the true one.
    others: root mean square error of all clients' own heads but the wrong one's, on noiseless targets of new rows."""

    world: str
    mistake: str
    screening: str
    head: tuple[float, float]
    others: tuple[float, float]


def _spoiled(x: np.ndarray, y: np.ndarray, mistake: str) -> tuple[np.ndarray, np.ndarray]:
    what, _, times = mistake.partition(" x ")
    if what == "inputs":
        return x * float(times), y
    if what == "one input":
        return x * np.where(np.arange(x.shape[1]) == 1, float(times), 1.0), y
    return (x, y * float(times)) if what == "targets" else (x, y)


def learned(mistake: str, screening: str, seed: int, width: int) -> tuple[float, float]:
    """Head error and the others' error of a regression of 40 clients with about 12 rows. For two names it is the largest client's."""
    draw = np.random.default_rng(seed)
    truth = draw.standard_normal((width, 1))
    own = [truth + 0.3 * draw.standard_normal(truth.shape) for _ in range(CLIENTS)]
    sizes = np.maximum(draw.lognormal(np.log(12), 0.5, CLIENTS).astype(int), 2)
    x = [draw.standard_normal((n, width)) for n in sizes]
    y = [part @ head + 1 + draw.standard_normal((len(part), 1)) for part, head in zip(x, own, strict=True)]
    new = draw.standard_normal((200, width))
    if mistake == "two names":
        x, y = ([*values, values[int(sizes.argmax())]] for values in (x, y))
    x[WRONG], y[WRONG] = _spoiled(x[WRONG], y[WRONG], mistake)
    counts, strategy = (
        np.array([len(part) for part in x]),
        SfHfe.model_validate({"representation": {"kind": "identity"}, "screening": screening}),
    )
    made = make_problem(nn.Linear(width, 1), local=Local(), task="regression", outputs=1, shape=(width,), samples=counts, seed=seed)
    problem, tensors = strategy.problem(made), [tuple(torch.from_numpy(one).float() for one in pair) for pair in zip(x, y, strict=True)]
    rows = torch.stack([strategy.message(problem, *pair) for pair in tensors]).numpy()
    update = strategy.learned(problem, ServerState(), np.arange(len(x)), counts, rows)
    state = strategy.with_experts(update, {k: Expert(k).fit(*order) for k, order in update.experts.items()})
    heads, errors = state.private["heads"], []
    for client, expert in enumerate(state.private["expert_id"][:CLIENTS].tolist()):
        if client != WRONG:
            f, z = with_constant(tensors[client][0].double()), tensors[client][1].double()
            found = personal_head(f, z, heads[expert], state.private["scatters"][expert]).numpy()
            errors.append(np.square(new @ (found[:-1] - own[client]) + found[-1] - 1).mean())
    true = np.vstack([truth, [[1.0]]])
    return float(np.square(heads[0].numpy() - true).sum()), float(np.sqrt(np.mean(errors)))


def whole_run(mistake: str, representation: str, seed: int) -> dict[str, tuple[float, list[str]]]:
    """The same from a table whose columns are standardised together, so that means and deviations are spoiled too: by way of screening, the
    others' root mean square test error in the label's unit, and who was found."""
    draw = np.random.default_rng(seed)
    truth, tables = draw.standard_normal((5, 1)), []
    for client in range(CLIENTS):
        x = draw.standard_normal((30, 5)) + 2
        y = np.sin(x @ truth) * 3 + x @ truth + 0.5 * draw.standard_normal((30, 1)) + 10
        x, y = _spoiled(x, y, mistake if client == WRONG else "none")
        tables.append(pd.DataFrame(x, columns=list("abcde")).assign(y=y[:, 0], site=f"s{client:02}"))
    waves = {"kind": "random_fourier", "features": FEATURES, "inputs": representation == "waves and inputs"}
    settings = {"kind": "identity"} if representation == "identity" else waves
    strategies = [{"kind": "sf_hfe", "name": way, "screening": way, "representation": settings} for way in WAYS]
    with tempfile.TemporaryDirectory(prefix="scarcity-benchmark-") as folder:
        path = Path(folder) / "rows.parquet"
        pd.concat(tables).to_parquet(path, index=False)
        source = {"kind": "table", "path": str(path), "label": "y", "client": "site", "task": "regression"}
        scenario = {"name": "units", "rounds": 3, "seed": seed, "data": {"source": source, "test_fraction": 0.5}, "strategies": strategies}
        run = simulate({**scenario, "execution": {"ray": False}}, out=Path(folder) / "run")
        frame = run.frame("clients")
        frame = frame[frame["client"] != f"s{WRONG:02}"].dropna(subset=["expert_id"])
        errors = np.sqrt(frame.groupby("strategy")["test_loss"].mean())
        found = {way: [one["name"] for one in run.summary["strategies"][way]["screened"]] for way in WAYS}
    return {way: (float(errors[way]), found[way]) for way in WAYS}


def screened(rows: Rows, task: Any, outputs: int, seed: int, *, waves: bool) -> Screened:
    """What screening says of clients' messages, with their inputs as features or waves of them, for which they send surveys first."""
    counts, surveyed = np.array([len(x) for x, _ in rows]), None
    x = [torch.from_numpy(part) for part, _ in rows]
    if waves:
        surveys = torch.stack([survey(part) for part in x]).numpy()
        surveyed = screen_surveys(surveys, counts)
        sound = surveyed.sound
        to = RandomFourier(features=FEATURES).waves(x[0].shape[1], seed, bandwidth(surveys[sound], counts[sound]))
        x = [to(part) for part in x]
    packing = Packing(x[0].shape[1] + 1, outputs, task)
    moments = (Moments.of(part, torch.from_numpy(y), task, outputs) for part, (_, y) in zip(x, rows, strict=True))
    return screen(packing, torch.stack([packing.pack(one) for one in moments]).numpy(), counts, surveyed)


def accused(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """How many clients of an honest world are accused, of how many, by inputs and by waves."""
    clients, found = 0, {"inputs": 0, "waves": 0}
    for seed in seeds:
        rows, task, outputs = honest(name, seed)
        clients += len(rows)
        for features in found:
            found[features] += len(screened(rows, task, outputs, seed, waves=features == "waves").findings)
    return {"world": name, "clients": clients, **found}


def _mean(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))


def main() -> None:
    """Measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(1, 4 if options.quick else 6)
    harms = []
    with torch.no_grad():
        for width in (5,) if options.quick else (5, 50):
            for mistake in MISTAKES:
                for way in WAYS:
                    values = zip(*(learned(mistake, way, seed, width) for seed in seeds), strict=True)
                    harms.append(Harm(f"{width} inputs", mistake, way, *map(_mean, values)))
    cells = [[one.world, one.mistake, one.screening, *(f"{m:.4g} +- {h:.2g}" for m, h in (one.head, one.others))] for one in harms]
    show(f"40 clients of about 12 rows, {len(seeds)} seeds", ["", "mistake", "screening", "error of the head", "others' error"], cells)

    runs, cells = [], []
    for representation in ("identity", "waves", "waves and inputs"):
        for mistake in ("none", "inputs x 1000", "one input x 1000", "inputs x 100", "targets x 1000"):
            each = [whole_run(mistake, representation, seed) for seed in seeds[: 1 if options.quick else 3]]
            errors = {way: [one[way][0] for one in each] for way in WAYS}
            runs.append(
                {"representation": representation, "mistake": mistake, "errors": errors, "found": [one["weigh"][1] for one in each]}
            )
            cells.append([representation, mistake, *(f"{np.mean(errors[way]):.4g}" for way in WAYS), str(runs[-1]["found"])])
    show("whole runs, a standardised table: the others' error", ["", "mistake", *WAYS, "found"], cells)

    many = {name: range(1, (7 if options.quick else 61) if name in MADE else (2 if options.quick else 6)) for name in (*MADE, *DEALT)}
    worlds = [accused(name, some) for name, some in many.items()]
    show(
        "honest clients", ["world", "clients", "accused by inputs", "by waves"], [[str(value) for value in one.values()] for one in worlds]
    )
    clients, wrong = 2 * sum(one["clients"] for one in worlds), sum(one["inputs"] + one["waves"] for one in worlds)
    print(f"{wrong} of {clients:,} honest clients are accused: {1000 * wrong / clients:.2f} in 1,000")
    write_json(options.json, {"harm": [asdict(one) for one in harms], "runs": runs, "honest": worlds})


if __name__ == "__main__":
    main()
