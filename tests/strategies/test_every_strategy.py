"""What holds for every registered strategy with a server half at the server: a new one is tested here without an edit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.played import federation, server, shards
from helpers.scenarios import scenario
from torch import Tensor

from scarcity_ray.actors.client import Client
from scarcity_ray.actors.server import Server
from scarcity_ray.core.exchange import ClientResult, State
from scarcity_ray.core.schedule import RoundInput, RoundPlan
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import STRATEGIES, SampledStrategy, Strategy
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.scenario.diagnostics import SpecErrors
from scarcity_ray.schedules import Uniform
from scarcity_ray.training.chunks import chunks
from scarcity_ray.training.evaluate import evaluate
from scarcity_ray.training.local import Local
from scarcity_ray.training.task import Task

KINDS = sorted(kind for kind, cls in STRATEGIES.classes.items() if cls.server_half == "server" and kind != "pooled")
SAMPLED = [kind for kind in KINDS if issubclass(STRATEGIES.classes[kind], SampledStrategy)]
TRAINING = [kind for kind in KINDS if not STRATEGIES.classes[kind]().ends_early]
"""Those whose clients train: the others end by themselves."""

COUNTS = [4, 0, 9, 7, 3, 6]
EMPTY, LIAR = 1, 3


def world(strategy: Strategy) -> Server:
    """A server of six clients, one of them without rows, whose model has two layers."""
    draw = np.random.default_rng(0)
    held = federation(shards(draw.standard_normal((sum(COUNTS), 6)), draw.integers(0, 3, sum(COUNTS)), COUNTS))
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    made = server(strategy, held, module, Local(epochs=2, batch_size=4, lr=0.05))
    made.set_strategy(strategy, strategy.problem(made.problem))
    return made


def settings(kind: str, **changes: Any) -> Strategy:
    return STRATEGIES.classes[kind](**changes)


def after(made: Server, rounds: int) -> Server:
    for _ in range(rounds):
        made.run_round(test=False)
    return made


def memory(made: Server) -> dict[str, np.ndarray]:
    return {name: values.copy() for name, values in made._client_state().items()}


def work(made: Server, chunk: np.ndarray) -> ClientResult:
    """The client half of the next round for some clients, as they and the server are now."""
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    steps = made.strategy.planned_steps(made.problem, made.state)[chunk]
    task = Task(made.problem, client.train, chunk, made.round + 1, steps)
    return made.strategy.client_update(task, made.state.received(chunk), client._recall(chunk))


def groups(made: Server) -> list[np.ndarray]:
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    everybody = np.arange(len(COUNTS))
    return chunks(made.problem, client.train, everybody, made.strategy.planned_steps(made.problem, made.state))


@pytest.mark.parametrize("kind", KINDS)
def test_uploads_have_the_form_that_was_asked_for_and_the_inputs_keep_their_bits(kind: str) -> None:
    made = after(world(settings(kind)), 1)
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    uploads, samples = made.strategy.uploads(made.problem, made.state), made.problem.samples
    for chunk in groups(made):
        before = copy.deepcopy((dict(made.state.received(chunk)), client._recall(chunk)))
        result, again = work(made, chunk), work(made, chunk)
        assert set(result.sums) == set(uploads)
        for name, (value, weight, *to) in result.sums.items():
            assert (value.shape[1:], value.dtype) == (uploads[name].shape, uploads[name].dtype)
            limit = torch.from_numpy(made.strategy.weight_limit(name, samples[chunk]))[:, None]
            assert ((weight >= 0) & (weight <= limit)).all()
            assert torch.equal(value, again.sums[name][0])
            assert all(torch.equal(one, other) for one, other in zip(to, again.sums[name][2:], strict=True))
        kept = (dict(made.state.received(chunk)), client._recall(chunk))
        assert all(torch.equal(one[name], other[name]) for one, other in zip(before, kept, strict=True) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_clients_together_are_each_alone_to_the_bit(kind: str) -> None:
    made = after(world(settings(kind)), 1)
    for chunk in groups(made):
        together = work(made, chunk)
        for i, one in enumerate(chunk):
            alone = work(made, np.array([one]))
            for name, (value, weight, *to) in together.sums.items():
                assert torch.equal(value[i : i + 1], alone.sums[name][0])
                assert torch.equal(weight.expand(len(chunk), *weight.shape[1:])[i : i + 1], alone.sums[name][1])
                assert [int(place[i]) for place in to] == [int(place[0]) for place in alone.sums[name][2:]]
            for name, state in together.state.items():
                assert torch.equal(state[i : i + 1], alone.state[name])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", SAMPLED)
def test_a_client_without_rows_changes_nothing_and_is_not_refused(kind: str, weighted: bool) -> None:
    made = after(world(settings(kind, weighted=weighted)), 1)
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    before, alone = client._recall(np.array([EMPTY])), np.array([EMPTY])
    result = work(made, alone)
    for name, (value, weight, *_) in result.sums.items():
        assert torch.isfinite(value).all()
        held = made.state.broadcast.get(name, torch.zeros_like(value[0]))
        unchanged = torch.equal(value[0], held) or torch.equal(value[0], torch.zeros_like(value[0])) or held.ndim > value[0].ndim
        assert float(weight.max()) == 0 or unchanged
    for name, state in result.state.items():
        assert torch.equal(state, before[name])
    assert made.run_round(test=False).rejected == []


class Without(Uniform):
    """The liar drops out of every round."""

    kind: str = "import"

    def next(self, before: RoundInput) -> RoundPlan:
        plan = super().next(before)
        return replace(plan, lost=plan.ids == LIAR)


@pytest.mark.parametrize("kind", TRAINING)
def test_a_round_with_a_refused_client_is_the_round_without_it(kind: str) -> None:
    cls: Any = STRATEGIES.classes[kind]
    uploads = cls().uploads(world(cls()).problem, world(cls()).state)
    if not uploads:
        pytest.skip("its clients send nothing that could be refused")

    class Lying(cls):  # type: ignore[misc]
        def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
            result = super().client_update(task, broadcast, client)
            name = next(iter(result.sums))
            value, *rest = result.sums[name]
            liar = torch.from_numpy(task.ids == LIAR).view(-1, *[1] * (value.ndim - 1))
            return replace(result, sums={**result.sums, name: (torch.where(liar, float("nan"), value), *rest)})

    lied, without = world(Lying()), world(cls(schedule=Without()))
    for _ in range(3):
        before = memory(lied)
        assert [client for client, _ in lied.run_round(test=False).rejected] == [LIAR]
        without.run_round(test=False)
        for name, values in memory(lied).items():
            assert np.array_equal(values[LIAR], before[name][LIAR])
    for part in ("broadcast", "private"):
        for name, value in getattr(lied.state, part).items():
            torch.testing.assert_close(value, getattr(without.state, part)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", SAMPLED)
def test_a_client_that_is_not_sampled_keeps_its_memory_and_has_an_answer(kind: str) -> None:
    made = world(settings(kind, clients_per_round=2))
    for _ in range(2):
        before = memory(made)
        plan = _next_plan(made)
        result = made.run_round()
        others = np.setdiff1d(np.arange(len(COUNTS)), plan.ids)
        for name, values in memory(made).items():
            assert np.array_equal(values[others], before[name][others])
        assert result.clients is not None
        assert np.isfinite(np.asarray(result.clients["test_loss"])[np.array(COUNTS) > 0]).all()


def _next_plan(made: Server) -> RoundPlan:
    made.round += 1
    plan = made.plan_round()
    made.round -= 1
    return plan


@pytest.mark.parametrize("kind", [kind for kind in KINDS if STRATEGIES.classes[kind].traffic is Strategy.traffic])
def test_bytes_are_those_of_the_true_numbers_that_are_sent(kind: str) -> None:
    made = world(settings(kind))
    layout = made.problem.layout

    def size(value: Tensor) -> int:
        whole = value.numel() // layout.width if value.ndim and value.shape[-1] == layout.width else 0
        return (whole * layout.num_parameters or value.numel()) * value.element_size()

    up = [size(value[0]) + 4 * len(to) for chunk in groups(made)[:1] for value, _, *to in work(made, chunk[:1]).sums.values()]
    down = sum(size(value) for value in made.state.broadcast.values())
    row = made.run_round(test=False).row
    assert (row["uplink_bytes"], row["downlink_bytes"]) == (sum(up) * len(COUNTS), down * len(COUNTS))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_keep_their_type_and_zeros_where_they_are_padded(kind: str) -> None:
    made = after(world(settings(kind)), 2)
    layout = made.problem.layout
    padding = ~layout.mask(*(part.name for part in layout.slices))
    rows = [*made.state.broadcast.values()]
    rows += [torch.from_numpy(values) for values in memory(made).values()]
    for row in (one for one in rows if one.ndim and one.shape[-1] == layout.width):
        assert not row[..., padding].any()
    for value in made.state.broadcast.values():
        assert value.dtype in (layout.dtype, torch.float64, torch.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_model_loads_and_answers_as_the_global_one(kind: str) -> None:
    made = after(world(settings(kind)), 2)
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    models = None
    if made.strategy.adaptation(made.problem.local, made.problem.samples) is None:
        models = made.strategy.eval_models(made.state.received(client.ids), client._recall(client.ids))
    saved = made.strategy.saved(made.problem, made.state)
    if models is None or "global" not in models or not saved:
        pytest.skip("it has no model that is the same for all")
    module = made.strategy.module(made.problem, made.state)
    module.load_state_dict(saved)
    x, y = torch.from_numpy(client.train.x), torch.from_numpy(client.train.y)
    expected = torch.nn.functional.cross_entropy(module(x), y, reduction="none").detach()
    found = evaluate(made.problem, models["global"], client.train, client.ids)[0]
    for i in np.flatnonzero(COUNTS):
        assert float(expected[client.train.rows(int(i))].mean()) == pytest.approx(found[i], rel=1e-5)


@pytest.mark.parametrize("kind", TRAINING)
def test_own_models_are_the_clients_own_and_no_alias(kind: str) -> None:
    made = after(world(settings(kind)), 2)
    (client,) = made.clients.workers  # type: ignore[attr-defined]
    assert isinstance(client, Client)
    own = client.personal(made.state)
    if own is None:
        pytest.skip("its clients keep no models of their own")
    before = own[1].copy()
    for name, value in made.state.broadcast.items():
        if value.shape == before[0].shape:
            assert not (before == value.numpy()).all(1)[np.array(COUNTS) > 0].any(), name
    assert len(np.unique(before, axis=0)) >= len(COUNTS) - 1
    made.broadcast_model()
    assert np.array_equal(client.personal(made.state)[1], before)  # type: ignore[index]


@pytest.mark.parametrize("kind", sorted(set(STRATEGIES.classes) - {"pooled"}))
def test_an_optimizer_that_does_not_suit_is_refused_when_the_scenario_is_read(kind: str, tmp_path: Path) -> None:
    scarce = {"scarcity": {}} if STRATEGIES.classes[kind]().answer.concurrency else {}
    read = parse(scenario(strategies=[{"kind": kind}], local={"lr": 0.01, "optimizer": "adam"}, **scarce))
    if "adam" in STRATEGIES.classes[kind].optimizers:
        assert prepare(read, tmp_path).problems
        return
    with pytest.raises((SpecError, SpecErrors), match=r"local.optimizer is 'adam'.*sgd"):
        prepare(read, tmp_path)


def test_every_registered_strategy_says_what_its_messages_reveal() -> None:
    """Its page is what a data protection officer reads: an empty cell would look like nothing to fear."""
    for kind, cls in STRATEGIES.classes.items():
        assert len(cls.reveals) > 10, f"{kind} needs a text `reveals`: what its messages could tell of a client's rows"
        assert cls.reveals[0].islower()
        assert not cls.reveals.endswith(".")
    assert STRATEGIES.classes["local_only"].reveals.startswith("nothing")
