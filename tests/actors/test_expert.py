"""Expert: fits from moments, predicts, and survives a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from scarcity_ray.actors.expert import Expert
from scarcity_ray.ensemble.moments import Moments
from scarcity_ray.ensemble.representation import FourierFeatures, WavesAndInputs


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    return torch.from_numpy((rng.standard_normal((60, 5)) + 3 * np.eye(3, 5)[y]).astype(np.float32)), torch.from_numpy(y)


def test_regression_by_hand() -> None:
    x = torch.linspace(-1, 1, 9)[:, None]
    expert = Expert(expert_id=3)
    head = expert.fit(Moments.of(x, 2 * x - 1, "regression", 1), strength=0.0)
    assert torch.allclose(head, torch.tensor([[2.0], [-1.0]], dtype=torch.float64), atol=1e-6)
    assert expert.evaluate(x, 2 * x - 1)["loss"] == pytest.approx(0, abs=1e-10)
    assert np.isnan(expert.evaluate(x, 2 * x - 1)["accuracy"])


def test_scale_divides_the_logits_only() -> None:
    x, y = blobs()
    moments = Moments.of(x, y, "classification", 3)
    plain, sure = Expert(), Expert()
    assert torch.equal(plain.fit(moments, 1.0), sure.fit(moments, 1.0, scale=0.1))
    assert torch.allclose(plain.predict(x) * 10, sure.predict(x), rtol=1e-4, atol=1e-5)
    assert sure.evaluate(x, y)["accuracy"] == plain.evaluate(x, y)["accuracy"] > 0.8
    assert sure.evaluate(x, y)["loss"] < plain.evaluate(x, y)["loss"]


@pytest.mark.parametrize("waves", [None, FourierFeatures, WavesAndInputs])
def test_round_trip_through_a_file(tmp_path: Path, waves: Any) -> None:
    x, y = blobs()
    representation = None if waves is None else waves(5, 16, seed=9, bandwidth=3.0)
    expert = Expert(expert_id=2, representation=representation)
    with torch.no_grad():
        seen = expert.representation(x)
    expert.fit(Moments.of(seen, y, "classification", 3), 0.3, scale=0.05)
    expert.save(tmp_path / "expert.safetensors")
    again = Expert.load(tmp_path / "expert.safetensors")
    assert (again.expert_id, again.strength) == (2, 0.3)
    assert torch.equal(again.predict(x), expert.predict(x))
    assert again.shard is not None
    assert expert.shard is not None
    assert torch.equal(again.shard.gram, expert.shard.gram)
    assert int(again.shard.samples) == 60


def test_without_a_model_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="expert 7 has no model yet"):
        Expert(7).predict(torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match="nothing to save"):
        Expert(7).save(tmp_path / "x.safetensors")


def test_what_is_added_and_removed_leaves_no_trace() -> None:
    rng = np.random.default_rng(4)
    x, y = torch.from_numpy(rng.standard_normal((60, 4))).float(), torch.from_numpy(rng.standard_normal((60, 1))).float()
    parts = [Moments.of(x[i : i + 20], y[i : i + 20], "regression", 1) for i in (0, 20, 40)]
    expert, never = Expert(0), Expert(1)
    expert.fit(parts[0], strength=0.3)
    expert.add(parts[1])
    with_rows = expert.add(expert.moments_of(x[40:], y[40:]))  # rows of its own domain
    pooled = Ridge(alpha=0.3).fit(x.double(), y.double())
    np.testing.assert_allclose(with_rows[:-1, 0], pooled.coef_.ravel(), rtol=1e-6)
    without = expert.remove(parts[1])
    never.fit(parts[0], strength=0.3)
    np.testing.assert_allclose(without, never.add(parts[2]), rtol=1e-9)
    with pytest.raises(RuntimeError, match="has no shard yet"):
        Expert(2).add(parts[0])
