"""Whether experts follow which classes their clients have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scarcity_ray.ensemble.label_mix import share_of_labels
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.ensemble.ridge import Rows, all_rows


def clients(classes: NDArray[np.int64]) -> list[Rows]:
    """A client for each line of classes."""
    rng, packing = np.random.default_rng(0), Packing(3, 4, "classification")
    messages = [
        packing.pack(
            Moments.of(torch.from_numpy(rng.standard_normal((len(y), 2))).float(), torch.from_numpy(y), "classification", 4)
        ).numpy()
        for y in classes
    ]
    return all_rows(packing, np.stack(messages), np.full(len(classes), classes.shape[1]))


def test_experts_of_different_classes_follow_them() -> None:
    rng, members = np.random.default_rng(1), np.arange(40) % 2
    assert share_of_labels(clients(rng.integers(0, 2, (40, 12)) + 2 * members[:, None]), members) == pytest.approx(0.86, abs=0.05)
    assert share_of_labels(clients(np.repeat(members, 6).reshape(40, 6)), members) == pytest.approx(1)


def test_experts_that_do_not_depend_on_classes_do_not() -> None:
    rng = np.random.default_rng(2)
    found = [share_of_labels(clients(rng.integers(0, 4, (30, 8))), rng.permutation(np.arange(30) % 3)) for _ in range(100)]
    assert np.mean(np.array(found, dtype=float)) == pytest.approx(0, abs=0.02)


def test_one_expert_follows_nothing() -> None:
    assert share_of_labels(clients(np.zeros((5, 3), dtype=np.int64)), np.zeros(5, dtype=np.int64)) is None
