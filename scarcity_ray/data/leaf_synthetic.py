"""Synthetic(alpha, beta) of LEAF and FedProx, drawn as published: from one NumPy RandomState, in the authors' order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Pool, refuse_too_large

DEVICES, INPUTS, CLASSES = 30, 60, 10


class LeafSynthetic(Spec):
    """Synthetic(alpha, beta) (Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, section 5.1).

    Device i holds lognormal(4, 2) + 50 rows, labelled y = argmax(x W_i + b_i) with W_i, b_i ~ N(u_i, 1),
    u_i ~ N(0, alpha) and x ~ N(v_i, diag(j^-1.2)), v_i ~ N(B_i, 1), B_i ~ N(0, beta). alpha and beta are passed to
    NumPy as standard deviations, as the authors' `generate_synthetic.py` does. With `iid`, one W, b ~ N(0, 1) and
    x of mean 0 for all, as their `generate_iid.py`. The seed is the scenario's: 0 gives the 22,349 rows of FedML's copy.
    pFedMe's copy (T. Dinh et al., NeurIPS 2020) has five times the rows: `times: 5`, and with 100 clients, alpha and beta 0.5 and
    seed 0 its 205,795.
    """

    kind: Literal["leaf_synthetic"] = "leaf_synthetic"
    alpha: Annotated[float, Field(ge=0, description="how much the devices' models differ")] = 1.0
    beta: Annotated[float, Field(ge=0, description="how much the devices' inputs differ")] = 1.0
    iid: Annotated[bool, Field(description="one model and one input distribution for all devices (alpha and beta unused)")] = False
    times: Annotated[int, Field(ge=1, description="this many times the rows of each device")] = 1

    def load(self, clients: int | None, seed: int, base_dir: Path) -> Pool:
        """Draws the devices in order; 30 of them unless `clients` says otherwise."""
        if seed >= 2**32:
            raise SpecError(("seed",), seed, "leaf_synthetic seeds NumPy's RandomState, which takes seeds below 2**32")
        devices = clients or DEVICES
        draw = np.random.RandomState(seed)  # the published recipe is this generator's sequence
        counts: NDArray[np.int64] = (draw.lognormal(4, 2, devices).astype(np.int64) + 50) * self.times
        refuse_too_large(("data", "clients"), clients, int(counts.sum()), INPUTS)
        covariance = np.diag(np.arange(1, INPUTS + 1) ** -1.2)

        u, v = np.zeros(devices), np.zeros((devices, INPUTS))
        if self.iid:
            w, b = draw.normal(0, 1, (INPUTS, CLASSES)), draw.normal(0, 1, CLASSES)
        else:
            u = draw.normal(0, self.alpha, devices)
            centres = draw.normal(0, self.beta, devices)
            for device in range(devices):
                v[device] = draw.normal(centres[device], 1, INPUTS)

        x, y = [], []
        for device in range(devices):
            if not self.iid:
                w, b = draw.normal(u[device], 1, (INPUTS, CLASSES)), draw.normal(u[device], 1, CLASSES)
            rows = draw.multivariate_normal(v[device], covariance, counts[device])
            x.append(rows.astype(np.float32))
            y.append(np.argmax(rows @ w + b, axis=1))
        return Pool(np.concatenate(x), np.concatenate(y), "classification", CLASSES, np.repeat(np.arange(devices), counts))
