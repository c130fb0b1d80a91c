"""curves.png: what the strategies reached by round and by what they cost, and how it is spread over the clients, a line a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from scarcity_ray.baselines import ALONE
from scarcity_ray.core.metrics import WORST, Shown, further, headline
from scarcity_ray.report.units import duration, number, short_number, size
from scarcity_ray.results.results import Results

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F")
"""The palette of Okabe and Ito, for colour-blind readers too, without its yellow (hard to see on white), and two more."""

_GREY = "#666666"
"""Of the clients at their best alone, which everything is compared with."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")


@dataclass(frozen=True)
class Cost:
    """What a strategy spends. column: of the data frame of rounds, so far. title, label: of its panel. none: said of who spends none of
    it. words: an amount of it."""

    column: str
    title: str
    label: str
    none: str
    words: Callable[[float], str]


BYTES = Cost("kilobytes", "By bytes", "KB sent up and down, a client", "0 bytes", lambda kilobytes: size(1024 * kilobytes))
COSTS = (
    BYTES,
    Cost("hours", "By time", "hours of the simulated clock", "no clock", lambda hours: duration(3600 * hours)),
    Cost("joules_each", "By energy", "joules, a client", "no energy", lambda joules: f"{short_number(joules)} J"),
)
"""The last two where something is scarce and costs them."""


@dataclass(frozen=True)
class Curve:
    """One strategy. round `[evaluated rounds]`; spent, of each cost, the same; centre, tail `[seeds, evaluated rounds]`; final `[clients]`,
    all seeds'. A seed that ended earlier keeps its last values."""

    name: str
    pooled: bool
    colour: str
    marker: str
    round: NDArray[Any]
    spent: Mapping[str, NDArray[Any]]
    centre: NDArray[Any]
    tail: NDArray[Any]
    final: NDArray[Any]


def draw_curves(results: Results, path: Path) -> None:
    """Draws the run's curves into a PNG at `path`; with repeats means over seeds, and a band from lowest to highest.

    The metric that decides comes first, then each further one that has a value. Time and energy have panels where the run counted some.
    """
    summary, rounds = results.summary, results.rounds.to_pandas()
    lines = {
        shown.key: (shown, _curves(results, summary, rounds, shown))
        for shown in (headline(summary["task"], summary.get("metric")), *further())
    }
    drawn = [(shown, curves) for shown, curves in lines.values() if curves]
    costs = [cost for cost in COSTS if cost is BYTES or any(_pays(curve, cost) for _, curves in drawn for curve in curves)]
    figure = Figure(figsize=(5 * (2 + len(costs)), 5 * max(len(drawn), 1)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(len(drawn), 1), 2 + len(costs), squeeze=False)
    figure.suptitle(summary["question"] or summary["scenario"], fontsize=13, x=0.01, ha="left")
    for (shown, curves), (by_round, *by_cost, over_clients) in zip(drawn, panels, strict=False):
        alone = _alone(results, summary, shown)
        _by_round(by_round, curves, shown)
        for axes in (by_round, *by_cost) if alone else ():
            axes.axhline(_mean(alone[0].centre)[-1], color=_GREY, lw=1.5, ls="-.", zorder=1)
        for axes, cost in zip(by_cost, costs, strict=True):
            axes.set(yscale=by_round.get_yscale(), ylim=by_round.get_ylim())
            _by_cost(axes, curves, shown, cost)
        _over_clients(over_clients, [*alone, *curves], shown)
        over_clients.set_yscale(by_round.get_yscale())
        _label_ends(by_round, [*alone, *curves])
    if drawn:
        styles = [
            Line2D([], [], color="0.3", lw=2, marker="o", ms=8, label="mean over clients"),
            Line2D([], [], color="0.3", lw=1, marker="o", ms=4, ls="--", label="worst tenth"),
        ]
        figure.legend(handles=styles, loc="upper right", ncols=2, frameon=False, fontsize=9)
    else:
        figure.text(0.5, 0.5, "No strategy was evaluated on test rows.", ha="center", fontsize=13)
    figure.savefig(path)


def _axis(shown: Shown) -> str:
    """What an axis says of a metric over clients."""
    return f"test {shown.long}" if shown.metric.higher_is_better else f"test {shown.long} (lower is better)"


def _curves(results: Results, summary: dict[str, Any], rounds: Any, shown: Shown) -> list[Curve]:
    """The strategies for which a metric was measured, in the order of the run. rounds: the table, as a data frame."""
    mean, tail = shown.metric.column, f"{shown.metric.column}{WORST}"
    if mean not in rounds:  # a run of before the metric
        return []
    _add_costs(rounds, summary["clients"])
    curves: list[Curve] = []
    for name, rows in rounds.dropna(subset=[mean]).groupby("strategy", sort=False):
        columns = (mean, tail, *(cost.column for cost in COSTS))
        table = {column: rows.pivot(index="round", columns="seed", values=column).ffill() for column in columns}
        curves.append(
            Curve(
                name=str(name),
                pooled=summary["strategies"][name]["kind"] == "pooled",
                colour=COLOURS[len(curves) % len(COLOURS)],
                marker=MARKERS[len(curves) % len(MARKERS)],
                round=table[mean].index.to_numpy(),
                spent={cost.column: table[cost.column].mean(axis=1).to_numpy() for cost in COSTS},
                centre=shown.shape(table[mean].to_numpy().T),
                tail=shown.shape(table[tail].to_numpy().T),
                final=shown.shape(_final(results, str(name), rows, mean)),
            )
        )
    return curves


def _add_costs(rounds: Any, clients: int) -> None:
    """Adds the columns of COSTS to the table, as a data frame: sums so far, 0 where the run did not count them."""
    who, nothing = [rounds["strategy"], rounds["seed"]], 0.0 * rounds["uplink_bytes"]
    rounds["kilobytes"] = (rounds["uplink_bytes"] + rounds["downlink_bytes"]).groupby(who).cumsum() / clients / 1024
    rounds["hours"] = rounds.get("clock_seconds", nothing).fillna(0.0) / 3600  # the clock is that of the end of the round
    rounds["joules_each"] = rounds.get("joules", nothing).fillna(0.0).groupby(who).cumsum() / clients


def _alone(results: Results, summary: dict[str, Any], shown: Shown) -> list[Curve]:
    """Each client at its best alone, as a curve of one point; none where the run is older, or diverged values would hide the others."""
    column = shown.metric.column
    entry = summary["strategies"].get(ALONE)
    if entry is None or entry.get(column) is None or not np.isfinite(entry[column]):
        return []
    reached, nothing = shown.shape(np.array([[entry[column]]])), np.zeros(1)
    rows = results.table("clients", ["seed", "round"], [("strategy", "=", ALONE)]).to_pandas()
    return [Curve(ALONE, False, _GREY, "o", nothing, {}, reached, reached, shown.shape(_final(results, ALONE, rows, column)))]


def _final(results: Results, strategy: str, rows: Any, column: str) -> NDArray[Any]:
    """The clients' metric in the last evaluated round, of every seed."""
    found = []
    for seed, last in rows.groupby("seed")["round"].max().items():
        chosen = [("strategy", "=", strategy), ("seed", "=", int(seed)), ("round", "=", int(last))]
        found.append(results.table("clients", [column], chosen)[column].drop_null().to_numpy())
    return np.sort(np.concatenate(found))


def _mean(values: NDArray[Any]) -> NDArray[Any]:
    """Over the seeds that have a finite value."""
    finite = np.ma.masked_invalid(values)
    return np.asarray(finite.mean(axis=0).filled(np.nan))


def _line(axes: Axes, x: NDArray[Any], curve: Curve) -> None:
    """Mean and worst tenth over `x`; markers where there are too few points to make a line."""
    marker = curve.marker if len(x) < 3 else ""
    axes.plot(x, _mean(curve.centre), color=curve.colour, lw=2, marker=marker, ms=9, zorder=3)
    axes.plot(x, _mean(curve.tail), color=curve.colour, lw=1, ls="--", marker=marker, ms=5, zorder=2)
    if len(curve.centre) > 1:
        axes.fill_between(x, np.fmin.reduce(curve.centre), np.fmax.reduce(curve.centre), color=curve.colour, alpha=0.15, lw=0)


def _by_round(axes: Axes, curves: list[Curve], shown: Shown) -> None:
    end = max(float(curve.round[-1]) for curve in curves)
    for curve in curves:
        _line(axes, curve.round, curve)
        if curve.round[-1] < end:  # it ended earlier: its last value, for comparison
            axes.hlines(_mean(curve.centre)[-1], curve.round[-1], end, color=curve.colour, lw=1, ls=":", zorder=1)
    reached = np.concatenate([np.ravel(values) for curve in curves for values in (curve.centre, curve.tail)])
    least = np.nanmin(reached)
    if not shown.metric.higher_is_better and least >= 0 and np.nanmax(reached) > 100 * least:  # beside one that diverges, others look flat
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="round", ylabel=_axis(shown), title="By round", xlim=(0, end * 1.02))
    tidy(axes)


def _label_ends(axes: Axes, curves: list[Curve]) -> None:
    """Names at the right edge, each at the end of its curve, moved apart where they would overlap."""
    for curve, height in zip(*_heights(axes, curves), strict=True):
        text = f"{curve.name} {number(float(_mean(curve.centre)[-1]))}"
        axes.text(1.015, height, text, transform=axes.transAxes, color=curve.colour, va="center", fontsize=10, fontweight="bold")


def _heights(axes: Axes, curves: list[Curve]) -> tuple[list[Curve], list[float]]:
    """The curves by what they reached, and where a text beside the end of each stands, as shares of the height."""
    if not curves:
        return [], []
    low, high = axes.get_ylim()
    place = axes.transData + axes.transAxes.inverted()
    last = np.nan_to_num([_mean(curve.centre)[-1] for curve in curves], nan=high)
    ends = [float(place.transform((1, value))[1]) for value in np.clip(last, low, high)]
    return [curves[index] for index in np.argsort(ends)], _apart(np.sort(ends), 0.055).tolist()


def _apart(heights: NDArray[Any], least: float) -> NDArray[Any]:
    """Rising heights, moved as little as possible until neighbours are `least` apart. Overlapping ones share their middle."""
    blocks = [[float(height), 1] for height in heights]  # a block: its middle, its labels
    merged: list[list[float]] = []
    for block in blocks:
        merged.append(block)
        while len(merged) > 1 and merged[-1][0] - merged[-2][0] < least * (merged[-1][1] + merged[-2][1]) / 2:
            (above, many), (below, few) = merged.pop(), merged.pop()
            merged.append([(above * many + below * few) / (many + few), many + few])
    return np.concatenate([middle + least * (np.arange(count) - (count - 1) / 2) for middle, count in merged])


def _pays(curve: Curve, cost: Cost) -> bool:
    return bool(curve.spent[cost.column][-1] > 0)


def _by_cost(axes: Axes, curves: list[Curve], shown: Shown, cost: Cost) -> None:
    paying = [curve for curve in curves if _pays(curve, cost)]
    for curve in curves:
        reached, spent = _mean(curve.centre)[-1], curve.spent[cost.column]
        if _pays(curve, cost):
            _line(axes, np.where(spent > 0, spent, np.nan), curve)
            axes.plot(spent[-1], reached, color=curve.colour, marker=curve.marker, ms=9, zorder=4)
        else:
            axes.axhline(reached, color=curve.colour, lw=2)
            axes.axhline(_mean(curve.tail)[-1], color=curve.colour, lw=1, ls="--")
            words = f"{curve.name}: {'all rows in one place' if curve.pooled else cost.none}"
            _note(axes, words, curve, (0.01, reached), ("axes fraction", "data"), (0, -11))
    for curve, height in zip(*_heights(axes, paying), strict=True) if len(paying) <= 4 else ():
        end = float(curve.spent[cost.column][-1])
        _note(axes, cost.words(end), curve, (end, height), ("data", "axes fraction"), (9, -3))
    if paying:
        spent = np.concatenate([curve.spent[cost.column][curve.spent[cost.column] > 0] for curve in paying])
        axes.set_xscale("log")
        axes.set_xlim(10 ** np.floor(np.log10(spent.min() * 0.9)), 10 ** np.ceil(np.log10(spent.max() * 1.8)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda amount, _: f"{amount:,.10g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())  # within one decade their labels would run into each other
    else:
        axes.set_xticks([])
    axes.set(xlabel=cost.label, ylabel=_axis(shown), title=cost.title)
    tidy(axes)


def _over_clients(axes: Axes, curves: list[Curve], shown: Shown) -> None:
    for curve in curves:
        worst_first = curve.final if shown.metric.higher_is_better else curve.final[::-1]
        share = 100 * (np.arange(len(worst_first)) + 0.5) / len(worst_first)
        axes.plot(share, worst_first, color=curve.colour, lw=2, marker=curve.marker if len(share) < 3 else "")
    axes.axvspan(0, 10, color="0.94", lw=0, zorder=0)
    axes.text(5, 1.0, "worst\ntenth", transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=8, color="0.4")
    words = f"test {shown.long} of a client"
    axes.set(xlabel="% of the clients, from the worst off", ylabel=words, title="Client by client, at the end", xlim=(0, 100))
    tidy(axes)


def _note(axes: Axes, text: str, curve: Curve, at: tuple[float, float], units: tuple[str, str], offset: tuple[int, int]) -> None:
    """Text beside a point. units: of its two coordinates. offset: points."""
    style: dict[str, Any] = {"color": curve.colour, "ha": "left", "fontsize": 9, "zorder": 5}
    axes.annotate(text, at, xycoords=units, xytext=offset, textcoords="offset points", **style)


def tidy(axes: Axes) -> None:
    """A light grid, and no frame on the sides without a scale."""
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
