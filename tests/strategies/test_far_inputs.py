"""Inputs far from 0: with a centre the same is learned, and without one they are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scarcity_ray import Client, Server
from scarcity_ray.actors.report import RoundResult
from scarcity_ray.core.spec import SpecError
from scarcity_ray.ensemble.representation import Identity, RandomFourier
from scarcity_ray.strategies import Afl
from scarcity_ray.strategies.represented import SendsMoments
from scarcity_ray.strategies.sf_hfe import SfHfe


def learned(strategy: SendsMoments, away: float) -> tuple[Server, RoundResult]:
    rng, clients = np.random.default_rng(1), []
    slopes = rng.standard_normal(4)
    for m in range(20):
        own = slopes + 0.3 * rng.standard_normal(4)
        x, test = rng.standard_normal((12, 4)), rng.standard_normal((40, 4))
        shifted = [(part + away).astype(np.float32) for part in (x, test)]
        clients.append(Client(client_id=m, data=(shifted[0], x @ own + 0.3 * rng.standard_normal(12)), test=(shifted[1], test @ own)))
    server = Server(20, clients, model=torch.nn.Linear(4, 1), strategy=strategy)
    while not (result := server.run_round()).done:
        pass
    return server, result


@pytest.mark.parametrize("away", [10.0, 1e4])
@pytest.mark.parametrize("strategy", [SfHfe(representation=Identity(centre=True)), SfHfe(representation=RandomFourier(features=48))])
def test_where_inputs_lie_changes_nothing(strategy: SfHfe, away: float) -> None:
    (_, near), (server, moved) = learned(strategy, 8.0), learned(strategy, away)
    assert moved.row["test_loss"] == pytest.approx(near.row["test_loss"], rel=0.02)
    assert moved.row["test_loss"] < 0.15  # the variance of targets is about 4
    assert server.state.broadcast["centre"].numpy() == pytest.approx(away, rel=0.05)


def test_a_centre_costs_a_survey_and_a_mean() -> None:
    plain, centred = (learned(SfHfe(representation=Identity(centre=one)), 0.0)[0] for one in (False, True))
    insight = 52  # the scalar part of another round's
    assert (centred.traffic.uplink - plain.traffic.uplink == 4 * (4 + 1) + insight).all()
    assert (centred.traffic.downlink - plain.traffic.downlink == 4 * 4).all()


@pytest.mark.parametrize("kind", [SfHfe, Afl])
def test_without_a_centre_they_are_refused(kind: type[SendsMoments]) -> None:
    with pytest.raises(SpecError, match=r"representation\.centre is False: inputs lie .* times as far from 0 as from each other"):
        learned(kind(representation=Identity()), 100.0)


def test_a_saved_model_has_its_centre(tmp_path: Path) -> None:
    server, _ = learned(SfHfe(representation=Identity(centre=True), experts=1, personal=False), 50.0)
    strategy, state = server.strategy, server.state
    saved, module = strategy.saved(server.problem, state), strategy.module(server.problem, state)
    module.load_state_dict({name: value for name, value in saved.items() if not name.startswith("ensemble.")})
    x = torch.randn(7, 4) + 50
    row = strategy.eval_models(state.broadcast, {})["global"]
    head = server.problem.layout.state_dict(row[0])
    expected = (x - state.broadcast["centre"]) @ head["head.weight"].T + head["head.bias"]
    assert torch.allclose(module(x), expected, atol=1e-4)
