"""A statistician's mixed model: an intercept for each client, fitted by statsmodels on everybody's rows."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scarcity_ray.core.federation import Federation, Shards

Floats = NDArray[np.float64]


class Mixed(NamedTuple):
    """The fit. predicted: `[n]`, of the test rows, standardised as the federation's targets are; probabilities of class 1 for classes.
    variance: `[n]`, of a test row's target about that; None for classes. noise, intercept: variances within clients and of their
    intercepts. owner: `[n]`, the client of each test row."""

    predicted: Floats
    variance: Floats | None
    noise: float
    intercept: float
    owner: NDArray[np.int64]


def has_statsmodels() -> bool:
    """Whether it is installed: it is no dependency."""
    return importlib.util.find_spec("statsmodels") is not None


def mixed_model(federation: Federation) -> Mixed | None:
    """The mixed model of a federation of two classes or one target; None where statsmodels does not converge.

    Targets: restricted maximum likelihood (MixedLM), clients' intercepts by best linear unbiased prediction. Classes have none such:
    a logistic model with normal intercepts, by variational Bayes (BinomialBayesMixedGLM), whose modes predict.
    """
    train, test = federation.train, federation.test
    rows, tests = (np.column_stack([part.x, np.ones(len(part.x))]).astype(np.float64) for part in (train, test))
    _, size, directions = np.linalg.svd(rows, full_matrices=False)
    basis = directions[size > 1e-9 * size[0]].T  # codes of words add up to the constant, and statsmodels refuses dependent columns
    fit = _of_targets if federation.task == "regression" else _of_classes
    return fit(rows @ basis, train.y.ravel().astype(np.float64), owner(train), tests @ basis, owner(test))


def owner(rows: Shards) -> NDArray[np.int64]:
    """The client of each row."""
    return np.repeat(np.arange(len(rows.counts)), rows.counts)


def _of_targets(x: Floats, y: Floats, of: NDArray[np.int64], tests: Floats, tested: NDArray[np.int64]) -> Mixed | None:
    from statsmodels.regression.mixed_linear_model import MixedLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fitted = MixedLM(y, x, of).fit(method=["bfgs", "powell"])  # lbfgs may say that it converged where it has not
        except np.linalg.LinAlgError:
            return None
    if not fitted.converged:
        return None
    beta, noise, intercept = np.asarray(fitted.fe_params), float(fitted.scale), float(np.asarray(fitted.cov_re)[0, 0])
    clients = int(max(of.max(), tested.max())) + 1
    rows = np.bincount(of, minlength=clients)
    shrunk = rows * intercept / (noise + rows * intercept)
    means = np.stack([np.bincount(of, column, clients) for column in (*x.T, y)], axis=1) / np.maximum(rows, 1)[:, None]
    own = shrunk * (means[:, -1] - means[:, :-1] @ beta)
    apart = tests - (shrunk[:, None] * means[:, :-1])[tested]  # how the prediction of a row changes with the coefficients
    fixed = np.einsum("nd,de,ne->n", apart, np.asarray(fitted.cov_params())[: len(beta), : len(beta)], apart)
    variance = noise + (intercept * (1 - shrunk))[tested] + fixed
    return Mixed(tests @ beta + own[tested], variance, noise, intercept, tested)


def _of_classes(x: Floats, y: Floats, of: NDArray[np.int64], tests: Floats, tested: NDArray[np.int64]) -> Mixed | None:
    from scipy.sparse import csr_matrix
    from scipy.special import expit
    from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM

    clients = int(max(of.max(), tested.max())) + 1
    design = csr_matrix((np.ones(len(of)), (np.arange(len(of)), of)), (len(of), clients))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted: Any = BinomialBayesMixedGLM(y, x, design, np.zeros(clients, dtype=int)).fit_vb(fit_method="L-BFGS-B")
    if not np.isfinite(fitted.params).all():
        return None
    own = np.asarray(fitted.vc_mean)
    return Mixed(expit(tests @ fitted.fe_mean + own[tested]), None, np.nan, float(np.exp(2 * fitted.vcp_mean[0])), tested)
