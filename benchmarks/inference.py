"""Do the intervals cover, and does "pays" stay away where nobody gains? Federations whose truth is known.

    python benchmarks/inference.py           # 400 federations a setting, about a quarter of an hour
    python benchmarks/inference.py --quick   # 100 and fewer settings, under a minute

mean gain: each client's ridge against one ridge on everybody's rows, 10 to 200 clients of 8 to 60 rows, in which all clients are
alike, lie apart, or share luck of training; one seed, and 5 and 10 that split the same rows again or draw new ones. The truth
is the population's expected gain over fresh clients, rows and training; with one seed, given the trained model.
next client: true gains of clients that were not there, in the prediction interval. nobody gains: the whole way from test
rows to a conclusion, with one strategy and with the best of six. shares: clients better off, after shrinkage.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import show, write_json
from _inference_rows import clients_differ, given_gains, judge, nobody_gains
from _inference_worlds import Floats, World, gains, risk, truth
from scipy.stats import t as student

from scarcity_ray.core.randomness import stream
from scarcity_ray.inference.effects import random_effects
from scarcity_ray.inference.mean_gain import mean_gain
from scarcity_ray.inference.variances import shrunk_variances

KINDS = {"alike": (0.0, 0.0, 0.5), "apart": (0.6, 0.0, 0.5), "luck": (0.3, 0.3, 0.25)}
"""How far clients' coefficients lie apart, the luck of training, the share of rows for testing."""
DESIGNS = ((1, True), (5, True), (10, True), (5, False), (10, False))


class Figure(NamedTuple):
    """One line of the table. passed: None where there is no bar."""

    case: str
    setting: str
    figure: str
    bar: str
    passed: bool | None


def mean_gains(federations: int, quick: bool) -> tuple[list[Figure], list[dict[str, Any]]]:
    """Coverage of the mean gain's interval in every setting, and of the forms that were tried beside it."""
    sizes, rows = ((10, 40), (8, 16)) if quick else ((10, 40, 200), (8, 16, 60))
    found: list[dict[str, Any]] = []
    for metric in ("squared", "accuracy"):
        for kind, clients, count in ((k, c, n) for k in KINDS for c in sizes for n in rows):
            found += _world(World(clients, count, metric, *KINDS[kind]), kind, federations, 1000 if clients < 200 else 400)
    figures: list[Figure] = []
    for seeds, resplit in DESIGNS:
        mine = [one for one in found if (one["seeds"], one["resplit"]) == (seeds, resplit)]
        name = "1 seed" if seeds == 1 else f"{seeds} seeds, {'splits of the same rows' if resplit else 'fresh draws'}"
        low, high = (f([one["coverage"] for one in mine]) for f in (min, max))
        mean, width = (np.mean([one[key] for one in mine]) for key in ("coverage", "width"))
        inside = sum(0.92 <= one["coverage"] <= 0.99 for one in mine)
        text = f"{low:.1%} to {high:.1%}, mean {mean:.1%}; {inside} of {len(mine)} settings inside; width {width:.2f}"
        figures.append(Figure("mean gain covers", name, text, "92 to 99 %", inside == len(mine)))
        for form in mine[0]["forms"]:
            covered = [one["forms"][form] for one in mine]
            figures.append(Figure("", f"  {form}", f"{min(covered):.1%} to {max(covered):.1%}, mean {np.mean(covered):.1%}", "", None))
    for one in (one for one in found if not 0.92 <= one["coverage"] <= 0.99):
        setting = f"{one['metric']}, {one['kind']}, {one['clients']} clients of {one['rows']}, {one['seeds']} seeds"
        figures.append(Figure("  outside", f"{setting}, {'splits' if one['resplit'] else 'fresh'}", f"{one['coverage']:.1%}", "", None))
    return figures, found


def _world(world: World, kind: str, federations: int, for_truth: int) -> list[dict[str, Any]]:
    expected, expected_risk = truth(world, for_truth, 1)
    found = []
    for resplit in (True, False):
        values, shared = (np.concatenate(part) for part in zip(*gains(world, 10, resplit, federations, 2 + resplit), strict=True))
        for seeds in (seeds for seeds, kept in DESIGNS if kept == resplit):
            given = values[:, :seeds]
            # with one seed the shared model is what it is: its own risk in place of the expected one
            aim = np.full(federations, expected) if seeds > 1 else expected + expected_risk - risk(world, shared[:, 0])
            made = [mean_gain(one, keep_rows=resplit) for one in given]
            low, high = np.array([one.low for one in made]), np.array([one.high for one in made])
            spread = 2 * 1.96 * (given.mean((1, 2)) - aim).std()
            forms = {name: covers(given.mean((1, 2)), *form, aim) for name, form in _forms(given, world, resplit).items()}
            setting = {
                "metric": world.metric,
                "kind": kind,
                "clients": world.clients,
                "rows": world.rows,
                "seeds": seeds,
                "resplit": resplit,
            }
            coverage = float(((low <= aim) & (aim <= high)).mean())
            found.append({**setting, "coverage": coverage, "width": float(np.median(high - low) / spread), "forms": forms})
    return found


def _forms(given: Floats, world: World, resplit: bool) -> dict[str, tuple[Floats, Any]]:
    """Variances and degrees of freedom of the usual intervals, vectorised over federations."""
    seeds, clients = given.shape[1:]
    by_client = (given.mean(1) if resplit else given.reshape(len(given), -1)).var(1, ddof=1)
    over_clients = by_client / (clients if resplit else clients * seeds)
    forms = {"t over clients": (over_clients, clients - 1)}
    if seeds > 1:
        between = given.mean(2).var(1, ddof=1)
        corrected = between * (1 / seeds + world.test_rows / (world.rows - world.test_rows))
        forms["t over seeds"] = between / seeds, seeds - 1
        if resplit:
            forms["t over seeds, Nadeau and Bengio"] = corrected, seeds - 1
            both = over_clients + corrected
            forms["both variances added"] = both, both**2 / (over_clients**2 / (clients - 1) + corrected**2 / (seeds - 1))
    return forms


def covers(mean: Floats, variance: Floats, degrees: Any, aim: Floats) -> float:
    """The share of intervals mean +- t sqrt(variance) with the aim inside."""
    return float((np.abs(mean - aim) <= student.ppf(0.975, degrees) * np.sqrt(variance)).mean())


def by_row(federations: int) -> list[Figure]:
    """Coverage of the mean over rows where clients' rows are very uneven."""
    figures = []
    for clients in (10, 40, 200):
        draw, hits = stream(5, "by row", clients), 0
        for _ in range(federations):
            rows = np.ceil(20 * np.exp(draw.standard_normal(clients)))
            found = mean_gain(
                (draw.standard_normal(clients) + draw.standard_normal(clients) * 4 / np.sqrt(rows))[None], keep_rows=True, rows=rows
            )
            hits += found.low <= 0 <= found.high
        share = hits / federations
        figures.append(
            Figure("mean over rows covers", f"{clients} clients, sizes lognormal 1", f"{share:.1%}", "92 to 99 %", 0.92 <= share <= 0.99)
        )
    return figures


def next_clients(federations: int) -> list[Figure]:
    """Coverage and width of the prediction interval, row variances estimated and shrunk."""
    shapes: dict[str, Callable[[Any, int], Floats]] = {
        "normal": lambda draw, n: draw.standard_normal(n),
        "exponential": lambda draw, n: draw.exponential(size=n) - 1,
        "two groups": lambda draw, n: np.where(draw.random(n) < 0.5, -1.0, 1.0) + 0.3 * draw.standard_normal(n),
    }
    figures = []
    for clients in (10, 30, 100):
        for ratio in (0.0, 0.25, 1.0, 4.0):
            for shape, sample in shapes.items() if ratio else [("all the same", shapes["normal"])]:
                draw, hits, widths = stream(6, f"next {shape} {ratio}", clients), [], []
                for _ in range(federations):
                    rows = draw.integers(8, 61, clients)
                    noise = draw.gamma(4, 0.25, clients)  # variance of a row
                    tau2 = ratio / 25
                    y = np.sqrt(tau2) * sample(draw, clients) + draw.standard_normal(clients) * np.sqrt(noise / rows)
                    own = noise * draw.chisquare(rows - 1) / (rows - 1)
                    found = random_effects(y, shrunk_variances(own, rows) / rows)
                    new = np.sqrt(tau2) * sample(draw, 200)
                    hits.append(np.mean((found.next_low <= new) & (new <= found.next_high)))
                    w = 1 / (noise / rows + tau2)
                    widths.append((found.next_high - found.next_low, 2 * 1.96 * np.sqrt(tau2 + 1 / w.sum())))
                width = float(np.mean([one for one, _ in widths]) / np.mean([other for _, other in widths]))
                setting = f"{clients} clients, {shape}, {ratio:g} of the noise"
                # Where all are alike the true interval has nearly no width, which nobody can know from the gains.
                bar, good = (">= 90 %, <= 1.3", np.mean(hits) >= 0.9 and width <= 1.3) if ratio else (">= 90 %", np.mean(hits) >= 0.9)
                figures.append(Figure("next client covered", setting, f"{np.mean(hits):.1%}, width {width:.2f}", bar, bool(good)))
    return figures


def nobody(federations: int) -> list[Figure]:
    """How often it pays where it does not, by chance."""
    figures = []
    for kind in ("coin flips", "pure noise", "unrelated coefficients"):
        for strategies in (1, 6):
            for seeds in (1, 5):
                made = [judge(nobody_gains(kind, strategies, seeds, number), number) for number in range(federations)]
                sure, true = (np.stack(part) for part in zip(*((one.shrunk.sure, one.true) for one in made), strict=True))
                pays, above = np.mean([one.pays for one in made]), np.mean([one.above for one in made])
                better, wrong = (sure > 0).mean(), ((sure > 0) & (true <= 0)).mean()
                setting = f"{kind}, strategies: {strategies}, seeds: {seeds}"
                text = f"pays {pays:.1%}, surely better {better:.2%}"
                # A client alone overfits noise: against that some truly gain, and only those that do not are told wrongly.
                text += f", and truly not {wrong:.2%}"
                figures.append(Figure("nobody gains", setting, text, "<= 5 %, false <= 1 %", bool(pays <= 0.05 and wrong <= 0.01)))
                text = f"true mean gain {true.mean():+.3f}, its interval above 0 {above:.1%}"
                figures.append(Figure("", "  what is true there", text, "", None))
    for strategies in (1, 6):
        pays = np.mean([judge(clients_differ(strategies, number), number).pays for number in range(federations)])
        figures.append(Figure("mean gain 0", f"clients differ, strategies: {strategies}", f"pays {pays:.1%}", "<= 5 %", bool(pays <= 0.05)))
    return figures


SHARES: dict[str, Callable[[Any, int], Floats]] = {
    "nobody gains": lambda draw, n: np.zeros(n),
    "all gain 5 points": lambda draw, n: np.full(n, 0.05),
    "half gain 10 points": lambda draw, n: np.where(draw.random(n) < 0.5, 0.1, 0.0),
    "thirds: -15, 0, 15 points": lambda draw, n: draw.choice([-0.15, 0.0, 0.15], n),
    "normal, 5 +- 10 points": lambda draw, n: draw.normal(0.05, 0.1, n),
    "exponential, 8 points": lambda draw, n: draw.exponential(0.08, n),
}


def shares(federations: int) -> list[Figure]:
    """The posterior share better against the truth and the raw share, and the federation in which all gain."""
    figures = []
    for each in (35, 100):
        posterior, raw = [], []
        for name, sample in SHARES.items():
            errors, pays = [], []
            for number in range(federations):
                true = np.clip(sample(stream(number, name), 200), -0.65, 0.28)
                rows = given_gains(true, each, number)
                judged = judge(rows, number)
                found, share, better = judged.shrunk.share_better, (true > 0).mean(), (rows.alone - rows.strategies[0]).mean(-1) > 0
                errors.append((abs(found - share), abs(better.mean() - share), found, share))
                pays.append(judged.pays)
            mine, theirs, share, true_share = np.mean(errors, axis=0)
            posterior.append(mine)
            raw.append(theirs)
            text = f"{share:.2f}, truth {true_share:.2f}: off by {mine:.3f} (raw {theirs:.3f})"
            figures.append(Figure("share better", f"{name}, {each} rows", text, "<= raw + .01", bool(mine <= theirs + 0.01)))
            if name == "all gain 5 points" and each == 35:
                figures.append(
                    Figure("all gain", "5 points, 200 clients of 35", f"pays {np.mean(pays):.1%}", ">= 95 %", bool(np.mean(pays) >= 0.95))
                )
        text = f"off by {np.mean(posterior):.3f} (raw {np.mean(raw):.3f})"
        figures.append(Figure("share better", f"mean of six generators, {each} rows", text, "<= 0.1", bool(np.mean(posterior) <= 0.1)))
    return figures


def _lines(figures: Sequence[Figure]) -> list[list[str]]:
    words = {None: "", True: "PASS", False: "FALLS SHORT"}
    return [[one.case, one.setting, one.figure, one.bar, words[one.passed]] for one in figures]


def main() -> None:
    """Simulates all settings, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 federations a setting (30 for rows) and fewer settings")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    many = 100 if options.quick else 400
    fewer = 30 if options.quick else 400
    covered, settings = mean_gains(many, options.quick)
    figures = [*covered, *by_row(many), *next_clients(fewer), *nobody(fewer), *shares(20 if options.quick else 100)]
    show("inference", ("case", "setting", "found", "bar", ""), _lines(figures))
    short = [one for one in figures if one.passed is False]
    print(f"{sum(one.passed is True for one in figures)} bars met, {len(short)} not")
    write_json(options.json, {"federations": many, "figures": [one._asdict() for one in figures], "mean_gain_settings": settings})


if __name__ == "__main__":
    main()
