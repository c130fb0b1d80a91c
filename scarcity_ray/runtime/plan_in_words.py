"""A plan in words, as `--dry-run` and the log show it: data, actors, memory, and the bytes each strategy is expected to move."""

from __future__ import annotations

import numpy as np

from scarcity_ray.actors.asked import asked_of
from scarcity_ray.core import insights
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.data import describe
from scarcity_ray.runtime import evaluation
from scarcity_ray.runtime.plan import RunPlan, available
from scarcity_ray.scarcity.describe import turn_in_words, world_in_words

_NAMED = 6  # clients of a node that the plan names


def plan_in_words(plan: RunPlan) -> list[tuple[str, str]]:
    """A plan in rows of (what, how much): data, actors, memory, and the bytes each strategy is expected to move."""
    facts, scenario = describe(plan.federation), plan.scenario
    smallest, median, largest = (facts[f"{size}_shard"] for size in ("smallest", "median", "largest"))
    rows = [
        ("data", f"{facts['task']}, inputs {facts['shape']}, {facts['outputs']} outputs"),
        *([("table", written)] if (written := plan.federation.written) else []),
        ("clients", f"{facts['clients']:,} with {smallest:,} to {largest:,} training rows (median {median:g})"),
        *([("held out", f"{facts['strangers']:,} clients with {facts['stranger_rows']:,} rows")] if facts["strangers"] else []),
        ("rows", f"{facts['train_rows']:,} to train, {facts['validation_rows']:,} to validate, {facts['test_rows']:,} to test"),
        ("metric", evaluation.described(plan)),
        *_placement(plan),
        ("seeds", ", ".join(str(scenario.seed + i) for i in range(scenario.repeats))),
    ]
    if scenario.scarcity is not None and plan.world is not None:
        rows.append(("scarcity", world_in_words(scenario.scarcity, plan.world)))
    if scenario.evaluation.scarcity_report:
        runs = list(plan.scarcity_runs.scenarios)
        rows.append(("report", f"{len(runs)} runs, each with all seeds and strategies: {', '.join(runs)}"))
    rows += [("note", note) for note in plan.notes]
    return rows + [(strategy.title, _traffic(plan, strategy) + _turn(plan, strategy)) for strategy in scenario.strategies]


def _turn(plan: RunPlan, strategy: Strategy) -> str:
    """What a round costs a client in the world, for the largest message of those that are sent once."""
    problem = plan.problems[strategy.title]
    if plan.world is None or problem.population != plan.federation.clients:
        return ""
    state, largest = strategy.init_server(problem), plan.rounds(strategy)
    due = np.full(problem.population, state.down_bytes(problem.layout) if state.new_bytes is None else state.new_bytes)
    return f"; {turn_in_words(plan.world, asked_of(strategy, problem, state, largest, due), strategy.planned_steps(problem, state))}"


def _placement(plan: RunPlan) -> list[tuple[str, str]]:
    actors, execution = len(plan.blocks), plan.scenario.execution
    if plan.slots is None:
        where = "Ray actors" if execution.ray else "in this process, no Ray"
        return [
            ("actors", f"{actors:,} Client ({where}) on {plan.cpus} cores of this machine"),
            ("memory", f"about {plan.memory_bytes() / 2**20:,.0f} MiB of {available() / 2**20:,.0f} MiB available"),
        ]
    waits = f"asks the cluster for {plan.wanted:,} CPUs and waits at most {execution.wait_for_cluster:g} s"
    if not plan.slots:
        return [
            ("actors", f"one Client (Ray actor) for each CPU, at most {plan.wanted:,}: {waits}"),
            ("memory", "checked for each node once the cluster offers any"),
        ]
    offered = sum(slot.cpus for slot in plan.slots)
    more = f"; {waits}" if offered < plan.wanted else ""
    rows = [("actors", f"{actors:,} Client (Ray actors) on {plan.cpus:,} of {offered:,} CPUs of {len(plan.slots):,} nodes{more}")]
    for slot, parts in plan.by_node():
        clients = np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
        first = (plan.federation.called(client, plan.federation.clients) for client in clients[:_NAMED].tolist())
        named = ", ".join(first) + (", ..." if len(clients) > _NAMED else "")
        memory = f" of {slot.memory / 2**20:,.0f} MiB" if slot.memory else ""
        takes = f"about {plan.bytes_of(parts, len(parts)) / 2**20:,.0f} MiB{memory}"
        held = f"{len(parts):,} actors, {len(clients):,} clients ({named}), {takes}" if parts else "no actor"
        rows.append((f"node {slot.node[:12]}", held))
    return rows


def _traffic(plan: RunPlan, strategy: Strategy) -> str:
    problem, rounds = plan.problems[strategy.title], plan.rounds(strategy)
    population = len(problem.samples)
    sampled, insight = strategy.sampled(population), insights.wire_bytes(strategy.payload(problem, rounds))
    if strategy.server_half == "meta_learner":
        prepared = strategy.preparation(problem)
        weights = "no weights up" if prepared is None else f"after {prepared[2]} rounds of {prepared[0].title}, whose weights travel"
        return f"at most {rounds} rounds; an insight of up to {insight:,} bytes from each client, {weights}"
    before, round = plan.bytes_a_client(strategy) or (0, 0)
    each = before + rounds * round
    model = f"a model of {problem.layout.num_parameters:,} parameters"
    most = "at most " if strategy.uplink else ""
    by = "" if strategy.selects is None else f" selected by {strategy.selects.kind_title}"
    return f"{rounds} rounds of {sampled:,} of {population:,} clients{by}, {model}; {most}{each / 1024:,.1f} KiB a client in all"
