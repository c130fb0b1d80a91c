"""The competitor: FedAvg in usual PyTorch code, one client after another, in one process or in several.

It is written to be fast: rows are tensors in memory, minibatches are slices of a permutation (a DataLoader would be
slower), the module and its buffers are reused, its processes are warm, and clients are assigned to processes by their work.
"""

from __future__ import annotations

import multiprocessing as mp
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from scarcity_ray.runtime.placement import deal
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import Scenario, load
from scarcity_ray.schedules.uniform import sample

State = dict[str, Tensor]


@dataclass
class Timed:
    """Measurements of some rounds: client updates, seconds, and processor seconds of the processes."""

    updates: int
    seconds: float
    cpu: float


class Trainer:
    """Clients' rows, and one module that trains them one after the other."""

    def __init__(self, path: Path) -> None:
        plan = prepare(load(path).scenario, path.parent)
        problem = next(iter(plan.problems.values()))
        self.model: nn.Module = problem.module
        self.local = problem.local
        train = plan.federation.train
        self.shards = [
            (torch.from_numpy(train.x[train.rows(i)]), torch.from_numpy(train.y[train.rows(i)])) for i in range(plan.federation.clients)
        ]

    def train(self, client: int, state: State) -> None:
        """One client's local epoch from `state`; the module holds the result."""
        x, y = self.shards[client]
        self.model.load_state_dict(state)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.local.lr)
        for _ in range(self.local.epochs or 1):
            for rows in torch.randperm(len(x)).split(self.local.batch_size):
                optimizer.zero_grad()
                cross_entropy(self.model(x[rows]), y[rows]).backward()
                optimizer.step()

    def sum(self, clients: list[int], state: State, total: int) -> State:
        """The clients' weights summed, each by its share of the round's rows."""
        result = {name: torch.zeros_like(value) for name, value in state.items()}
        for client in clients:
            self.train(client, state)
            share = len(self.shards[client][0]) / total
            for name, value in self.model.state_dict().items():
                result[name].add_(value, alpha=share)
        return result


def _serve(pipe: Connection, path: Path, threads: int) -> None:
    """A process of the loop: answers requests until it receives None."""
    torch.set_num_threads(threads)
    trainer = Trainer(path)
    while (order := pipe.recv()) is not None:
        if isinstance(order, float):
            pipe.send(_gemm(order))
            continue
        clients, state, total = order
        began = time.process_time()
        summed = trainer.sum(clients, {name: torch.from_numpy(value) for name, value in state.items()}, total)
        pipe.send(({name: value.numpy() for name, value in summed.items()}, time.process_time() - began))


def _gemm(seconds: float, size: int = 1024) -> float:
    """GFLOP/s of float32 products of square matrices."""
    a, b, c = (torch.rand(size, size) for _ in range(3))
    torch.mm(a, b, out=c)
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        torch.mm(a, b, out=c)
        count += 1
    return 2e-9 * size**3 * count / took


class Loop:
    """The loop in `processes` processes, started once and idle between measurements. Use it in a `with` block."""

    def __init__(self, path: Path, processes: int, threads: int = 1) -> None:
        scenario: Scenario = load(path).scenario
        plan = prepare(scenario, path.parent)
        self.problem = next(iter(plan.problems.values()))
        self.strategy: Any = scenario.strategies[0]
        self.round, self.pipes, self.workers = 0, [], []
        context = mp.get_context("spawn")
        for _ in range(processes):
            mine, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs, path, threads), daemon=True)
            worker.start()
            self.pipes.append(mine)
            self.workers.append(worker)
        self.state = {name: value.numpy() for name, value in self.problem.module.state_dict().items()}

    def __enter__(self) -> Loop:
        self.rounds(1)  # warms up memory and the choice of kernels
        return self

    def __exit__(self, *exception: object) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for worker in self.workers:
            worker.join()

    def rounds(self, least: int, seconds: float = 0.0) -> Timed:
        """Runs rounds until at least `least` are done and `seconds` have passed."""
        result = Timed(0, 0.0, 0.0)
        began, played, samples = time.perf_counter(), 0, self.problem.samples
        while played < least or result.seconds < seconds:
            self.round, played = self.round + 1, played + 1
            ids = sample(self.problem.seed, self.round, len(samples), self.strategy.sampled(len(samples)))
            work = self.problem.local.steps_for(samples[ids])
            total = int(samples[ids].sum())
            for pipe, part in zip(self.pipes, deal(ids, work, len(self.pipes)), strict=True):
                pipe.send((part.tolist(), self.state, total))
            answers = [pipe.recv() for pipe in self.pipes]
            self.state = {name: sum(summed[name] for summed, _ in answers) for name in self.state}
            result.updates += len(ids)
            result.cpu += sum(cpu for _, cpu in answers)
            result.seconds = time.perf_counter() - began
        return result

    def gemm(self, seconds: float = 0.5) -> float:
        """GFLOP/s of all processes together, each with its own product."""
        for pipe in self.pipes:
            pipe.send(seconds)
        return float(sum(pipe.recv() for pipe in self.pipes))

    def flops(self) -> float:
        """Floating-point operations of the average client update, forward and backward, as torch counts its products."""
        problem, rows = self.problem, 8
        x, y = torch.zeros(rows, *problem.shape), torch.zeros(rows, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            cross_entropy(problem.module(x), y).backward()
        return float(counter.get_total_flops()) / rows * float(problem.samples.mean()) * (problem.local.epochs or 1)
