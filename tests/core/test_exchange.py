"""What the two halves of a strategy pass to each other, on its way between processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scarcity_ray.core.exchange import ServerState
from scarcity_ray.runtime.ray_fleet import RayFleet


def test_a_state_is_sent_as_arrays_and_without_code():
    cloudpickle = pytest.importorskip("ray").cloudpickle
    state = ServerState({"x": torch.arange(8.0)}, {"own": torch.ones(3, 2)}, {"kept": torch.zeros(1)}, new_bytes=32)
    sent = cloudpickle.dumps(state)
    # Ray's pickler sends what it cannot import by name as code, in some 2 KB and 3 ms a round.
    assert len(sent) < 1000
    assert b"of_arrays" not in sent
    back = cloudpickle.loads(sent)
    assert back.new_bytes == 32
    for name in ("broadcast", "each", "private"):
        for key, value in getattr(state, name).items():
            assert np.array_equal(getattr(back, name)[key].numpy(), value.numpy())


def test_a_small_state_travels_inside_calls_and_a_large_one_by_reference(monkeypatch):
    fleet, put = RayFleet.__new__(RayFleet), []
    monkeypatch.setattr("scarcity_ray.runtime.ray_fleet._send_user_modules", lambda: None)
    monkeypatch.setattr("scarcity_ray.runtime.ray_fleet.ray.put", put.append)
    small, large = ServerState({"x": torch.zeros(100)}), ServerState({"x": torch.zeros(100_000)})
    assert fleet.put(small) is small
    assert fleet.put(large) is None
    assert put == [large]
