"""Ditto's point estimates (Li et al., ICML 2021, section 3 and the authors' notebook): how near to the global model is best?

Of K clients, `spoiled` are not benign. Client k has n numbers ~ N(w_k, sigma^2), with w_k ~ N(0, tau^2), or N(0, tau_a^2) where it is
not benign. With their means m_k and the mean w of all m_k, Ditto's estimate is v_k = (m_k + lam w) / (1 + lam). Put e = m_k - w_k
and h = w - w_k; the expected squared error of a benign client, and where it is least, are

    (a + 2 b lam + c lam^2) / (1 + lam)^2,   lam* = (a - b) / (c - b),   with
    a = E e^2 = sigma^2 / n,   b = E e h = sigma^2 / (n K),
    c = E h^2 = tau^2 (1 - 1/K)^2 + ((K - 1 - spoiled) tau^2 + spoiled tau_a^2) / K^2 + sigma^2 / (n K)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from _published_runs import Bench, Figure, Floats, Found, federation, half_width, own_models, served
from torch import nn

from scarcity_ray.core.randomness import stream
from scarcity_ray.strategies.ditto import Ditto
from scarcity_ray.training.local import Local

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Example:
    """One of the notebook's two. published: the lam* that it states in its formula."""

    clients: int
    spoiled: int
    tau_a: float
    published: str
    rows: int = 30
    sigma: float = 0.8
    tau: float = 0.1

    def expected(self, lam: Floats | float) -> Floats | float:
        """A benign client's expected squared error."""
        a, b, c = self._moments()
        return (a + 2 * b * lam + c * lam**2) / (1 + lam) ** 2

    @property
    def best(self) -> float:
        """Where it is least."""
        a, b, c = self._moments()
        return (a - b) / (c - b)

    def _moments(self) -> tuple[float, float, float]:
        k, noise, tau = self.clients, self.sigma**2 / self.rows, self.tau**2
        others = ((k - 1 - self.spoiled) * tau + self.spoiled * self.tau_a**2) / k**2
        return noise, noise / k, tau * (1 - 1 / k) ** 2 + others + noise / k


EXAMPLES = {
    "8 clients": Example(8, 0, 0.1, "2.1333"),
    "16 clients, 8 of them spread more": Example(16, 8, 0.5, "1.1852"),
}


def run(example: Example, seed: int, trials: int) -> list[float]:
    """The mean squared error of benign clients' own models, for each of STRENGTHS, by the strategy `ditto`.

    The trials are the targets of one model with a bias alone: inputs are 0. Its loss is the mean over targets of a square without
    the factor 1/2 that the paper's has: the step size is times the trials, and lam 2 / trials times the paper's.
    """
    draw = stream(seed, "point estimates", example.clients)
    spread = np.where(np.arange(example.clients) < example.spoiled, example.tau_a, example.tau)[:, None]
    true = spread * draw.standard_normal((example.clients, trials))
    y = np.repeat(true, example.rows, axis=0) + example.sigma * draw.standard_normal((example.clients * example.rows, trials))
    held = federation(np.zeros((len(y), 1)), y, [example.rows] * example.clients)
    errors = []
    for lam in STRENGTHS:
        local = Local(steps=10, batch_size=example.rows, lr=0.5 * trials / (1 + lam))  # an own model is there after one step
        module = nn.Sequential(nn.Linear(1, trials))
        server = served(Ditto(lam=2 * lam / trials), held, module, local, seed)
        for _ in range(6):
            server.run_round(test=False)
        found = own_models(server, "0.bias")
        errors.append(float(((found - true)[example.spoiled :] ** 2).mean()))
    return errors


def least(errors: list[float]) -> float:
    """Where the errors at STRENGTHS are least: they are a parabola in u = lam / (1 + lam), as v = (1 - u) m + u w."""
    u = np.array(STRENGTHS) / (1 + np.array(STRENGTHS))
    square, linear, _ = np.polyfit(u, errors, 2)
    bottom = -linear / (2 * square)
    return float(bottom / (1 - bottom))


def ditto(bench: Bench) -> Found:
    """The best lam of simulated clients, and the errors on both sides of it, beside the closed form."""
    seeds, trials = range(1, 4 if bench.quick else 11), 1000
    figures, details = [], {}
    for name, example in EXAMPLES.items():
        errors = bench.map(run, [(example, seed, trials) for seed in seeds])
        figures.append(Figure(f"{name}: best lam", [least(one) for one in errors], example.published, f"{example.best:.4f}", ".3f"))
        for lam, ours in zip(STRENGTHS, np.transpose(errors), strict=True):
            expected = f"{1000 * example.expected(lam):.3f}"
            figures.append(Figure(f"{name}: 1000 x squared error at lam {lam:g}", (1000 * ours).tolist(), "", expected, ".3f"))
        details[name] = {"strengths": STRENGTHS, "errors": errors}
    away = [abs(np.mean(one.values) - float(one.recomputed)) / half_width(one.values) for one in figures]
    notes = [
        "Re-computed: our own closed form, see _published_ditto.py; it gives the published lam* in both examples.",
        f"{sum(one <= 1 for one in away)} of {len(away)} closed-form values lie in the 95 % intervals over seeds of {trials} trials each.",
    ]
    return Found(figures, notes, details)
