"""What the clients' gains over themselves alone say together: on average, for the next client, and for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.metrics import Shown
from scarcity_ray.inference.conclusion import conclude
from scarcity_ray.inference.effects import random_effects
from scarcity_ray.inference.mean_gain import MeanGain, mean_gain
from scarcity_ray.inference.multiple import holm
from scarcity_ray.inference.shrinkage import Shrunk, shrink
from scarcity_ray.inference.winner import Winner, chosen_on_validation, cross_fitted

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SeedGains:
    """The clients' gains under one seed. ids, rows: int64 `[k]`, clients and their test rows. gains, errors: `[3, k]`, gains (NaN where
    there is none) and their standard errors, on all test rows and on each half of them. validation: `[k]`, the metric that decides on
    validation rows, higher where the strategy is better; NaN where there are none."""

    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    gains: Floats
    errors: Floats
    validation: Floats

    @classmethod
    def of(cls, columns: Mapping[str, Any], shown: Shown) -> SeedGains:
        """Those in columns of the clients table, arrays `[k]`. shown: the metric that decides."""
        ids, rows = (np.array(columns[name], dtype=np.int64) for name in ("client_id", "num_test"))
        gains, errors = (
            np.stack([np.array(columns[f"gain{half}{part}"], dtype=np.float64) for half in ("", "_0", "_1")]) for part in ("", "_error")
        )
        validation = shown.shape(columns.get(f"validation_{shown.metric.name}", np.full(len(ids), np.nan)))
        return cls(ids, rows, gains, errors, validation if shown.metric.higher_is_better else -validation)


@dataclass(frozen=True)
class Gains:
    """The clients' gains of a strategy under all seeds. gains, errors: `[3, seeds, clients]`, as in SeedGains, by rising client id; NaN
    where a client has none. rows, validation: `[seeds, clients]`. keeps_clients: whether a client has the same rows under all seeds.
    bound: no gain is larger."""

    gains: Floats
    errors: Floats
    rows: Floats
    validation: Floats
    keeps_clients: bool
    bound: float = np.inf

    @classmethod
    def of(cls, seeds: Sequence[SeedGains], keeps_clients: bool, bound: float = np.inf) -> Gains:
        """From those of each seed, at least one. bound: see `largest`."""
        ids = np.unique(np.concatenate([seed.ids for seed in seeds]))
        found = np.full((2, 3, len(seeds), len(ids)), np.nan)
        rows, validation = np.zeros((len(seeds), len(ids))), np.full((len(seeds), len(ids)), np.nan)
        for place, seed in enumerate(seeds):
            there = np.searchsorted(ids, seed.ids)
            found[0][:, place, there], found[1][:, place, there], rows[place, there] = seed.gains, seed.errors, seed.rows
            validation[place, there] = seed.validation
        return cls(found[0], found[1], rows, validation, keeps_clients, bound)

    def mean(self, widen: float = 1.0) -> tuple[MeanGain, MeanGain]:
        """The mean gain with its interval, each client, and each test row, weighing the same. widen: see `inference.winner`."""
        table = self.gains[0]
        rows = np.where(np.isnan(table), 1, self.rows)
        by_client = mean_gain(table, keep_rows=self.keeps_clients, widen=widen)
        return by_client, mean_gain(table, keep_rows=self.keeps_clients, rows=rows, widen=widen)

    def shrunk(self, margin: float = 0.0) -> Shrunk:
        """Each client's gain in the light of all, held to the bound."""
        found = shrink(*self._units(), margin)
        return found._replace(**{name: np.clip(getattr(found, name), -self.bound, self.bound) for name in ("mean", "low", "high")})

    def describe(self, margin: float = 0.0, widen: float = 1.0) -> dict[str, Any]:
        """An entry `gain` of summary.json, plain values, in the unit of the metric that decides; a number that does not exist is None.

        mean, low, high: by client, with the 95 % interval; by_row: the same weighted by test rows. next_low, next_high: 95 %
        prediction interval of the next client's gain, no narrower than that of the mean. better, equal, worse: posterior shares of
        the clients. surely_better, surely_worse, cannot_tell: numbers of clients. clients: with a gain.
        """
        by_client, by_row = self.mean(widen)
        gains, errors = self._units()
        next_client, found = random_effects(gains, errors**2), self.shrunk(margin)
        return {
            **interval(by_client, self.bound),
            "by_row": interval(by_row, self.bound),
            # Nobody knows the next client's gain better than the mean one: where a few precise clients say otherwise, by their weight in
            # random effects, the interval of the mean holds.
            "next_low": _number(max(np.fmin(next_client.next_low, by_client.low), -self.bound)),
            "next_high": _number(min(np.fmax(next_client.next_high, by_client.high), self.bound)),
            "better": _number(found.share_better),
            "equal": _number(found.share_equal),
            "worse": _number(found.share_worse),
            "surely_better": int((found.sure > 0).sum()),
            "surely_worse": int((found.sure < 0).sum()),
            "cannot_tell": int((found.sure == 0).sum()),
            "clients": len(gains),
            "seeds": by_client.seeds,
        }

    def concluded(self, over_guess: Sequence[MeanGain], margin: float = 0.0, widen: float = 1.0) -> dict[str, Any]:
        """The answer that these gains allow, see `inference.conclusion`: verdict, equal, weightings_disagree, given_models, and needed
        (repeats, test_rows, clients) where there is no clear gain. over_guess: of all strategies that could have been chosen."""
        _, errors = self._units()
        noise = float(np.square(errors).sum()) / max(len(errors), 1) ** 2
        rows = self.rows[~np.isnan(self.gains[0])]
        by_client, by_row = self.mean(widen)
        found = conclude(
            by_client, by_row, over_guess, self.shrunk(margin).sure, margin=margin, row_noise=noise, test_rows=float(rows.mean())
        )
        kept = {name: getattr(found, name) for name in ("equal", "weightings_disagree", "given_models")}
        return {"verdict": found.verdict.value, **kept, "needed": None if found.needed is None else found.needed._asdict()}

    def over(self, reference: Gains) -> MeanGain:
        """The mean gain over another strategy, of the clients that both have a gain of."""
        same = self.gains.shape == reference.gains.shape
        apart = self.gains[0] - reference.gains[0] if same else np.full_like(self.gains[0], np.nan)
        return mean_gain(apart, keep_rows=self.keeps_clients)

    def _units(self) -> tuple[Floats, Floats]:
        """Each unit's gain and error, of those that have one: a client, or a client under a seed where each seed draws others.

        The error of a client's mean over seeds is that of its mean seed: its rows are the same, and more seeds make it no smaller.
        """
        gains, errors = self.gains[0], self.errors[0]
        known = ~np.isnan(gains)
        if not self.keeps_clients or len(gains) == 1:
            return gains[known], errors[known]
        some = known.any(0)
        squares = np.where(known, errors**2, 0.0).sum(0)[some] / known.sum(0)[some]
        return np.nanmean(gains[:, some], axis=0), np.sqrt(squares)


def largest(shown: Shown) -> float:
    """No gain in this metric is larger."""
    return 1.0 if shown.metric.bounded else np.inf


def describe_best(strategies: Mapping[str, Gains], guess: Gains | None, margin: float = 0.0) -> dict[str, Any] | None:
    """The best strategy by name, its gain, and the conclusion; None where no strategy has any gain.

    Validation rows choose where there are some, else halves of the test rows. strategies: the names of one, or of two where these halves
    choose differently; the gain is then that of choosing.
    """
    found = {name: one for name, one in strategies.items() if not np.isnan(one.gains[0]).all()}
    if not found or len({one.gains.shape for one in found.values()}) > 1:
        return None
    names, parts = list(found), list(found.values())
    validated = all((~np.isnan(one.validation)).any() for one in parts)
    if validated:
        winner = chosen_on_validation(np.stack([one.validation for one in parts]), np.stack([one.gains[0] for one in parts]))
    else:
        winner = cross_fitted(np.stack([one.gains[1] for one in parts]), np.stack([one.gains[2] for one in parts]))
    best = parts[winner.first] if winner.single else _of_choosing(winner, parts[winner.first], parts[winner.second])
    over_guess = [] if guess is None else [one.over(guess) for one in parts]
    chosen = [names[place] for place in dict.fromkeys((winner.first, winner.second))]
    gain, answer = best.describe(margin, winner.widen), best.concluded(over_guess, margin, winner.widen)
    chosen_on = "validation rows" if validated else "halves of the test rows"
    return {"strategies": chosen, "chosen_on": chosen_on, "gain": gain, "conclusion": answer}


def compared(strategies: Mapping[str, Gains]) -> list[dict[str, Any]]:
    """Each pair of strategies: better and worse, the names; gain, of the better one over the other, mean, low and high; p_value, and
    p_holm, adjusted for all pairs (`inference.multiple.holm`)."""
    pairs = []
    for (name, one), (other_name, other) in combinations(strategies.items(), 2):
        gain, names = one.over(other), (name, other_name)
        if gain.mean < 0:
            gain, names = other.over(one), (other_name, name)
        pairs.append((names, gain))
    adjusted, bound = holm([gain.p_value for _, gain in pairs]), max((one.bound for one in strategies.values()), default=np.inf)
    return [
        {"better": better, "worse": worse, "gain": interval(gain, bound), "p_value": _number(gain.p_value), "p_holm": _number(float(p))}
        for ((better, worse), gain), p in zip(pairs, adjusted, strict=True)
    ]


def _of_choosing(winner: Winner, first: Gains, second: Gains) -> Gains:
    """What choosing gains: each half's rows under the strategy that the other half chose."""
    errors = np.sqrt(first.errors[2] ** 2 + second.errors[1] ** 2) / 2
    gains = np.where(np.isnan(errors), np.nan, winner.gains)  # a client with a value on one half alone has no error of both
    return replace(first, gains=np.stack([gains] * 3), errors=np.stack([errors] * 3))


def interval(found: MeanGain, bound: float = np.inf) -> dict[str, float | None]:
    """Mean, low and high as plain values. bound: no gain is larger."""
    return {name: _number(float(np.clip(getattr(found, name), -bound, bound))) for name in ("mean", "low", "high")}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
