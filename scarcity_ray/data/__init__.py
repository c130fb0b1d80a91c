"""The data of a scenario: the source of rows, their partition among clients, and the resulting federation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import Self

from scarcity_ray.core.federation import Array, Encoding, Federation, Shards
from scarcity_ray.core.randomness import hash64, stream
from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.arrays import Arrays
from scarcity_ray.data.blobs import Blobs
from scarcity_ray.data.bundled import Bundled, Digits
from scarcity_ray.data.columns import Columns
from scarcity_ray.data.fedem import FedEM
from scarcity_ray.data.from_r import RDataset
from scarcity_ray.data.held_out import participants, participants_first, some_of
from scarcity_ray.data.leaf_synthetic import LeafSynthetic
from scarcity_ray.data.partitions import Natural, Partition, natural, partition
from scarcity_ray.data.pool import Categorical, Column, Pool
from scarcity_ray.data.remarks import left_out, of_split, remarks
from scarcity_ray.data.shifted_regression import ShiftedRegression
from scarcity_ray.data.split import TEST, TRAIN, VALIDATION, Split, split, split_groups
from scarcity_ray.data.standardise import Standardised, standardise
from scarcity_ray.data.table import Table
from scarcity_ray.data.transforms import Transform

Source = Annotated[
    Digits | Bundled | Blobs | LeafSynthetic | FedEM | ShiftedRegression | Table | RDataset | Arrays, Field(discriminator="kind")
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
_UNSEEN = 3  # the part of the unseen clients' rows, beside the three parts of `split`


class Drift(Spec):
    """From a round on, some clients move to the next hidden group: they keep their rows, but these get the group's transform."""

    round: Annotated[int, Field(ge=2, description="the first round in which their data are changed")]
    share: Annotated[float, Field(gt=0, le=1, description="share of the clients whose data change, drawn by the seed; at least 1")] = 0.5

    def of(self, clients: int) -> int:
        """Number of changing clients among `clients`: the share, rounded half up, at least 1."""
        return max(1, math.floor(clients * self.share + 0.5 + 1e-9))


class Data(Spec):
    """The `data` section of a scenario."""

    source: Annotated[Source, Field(description="where the rows come from")]
    clients: Annotated[int | None, Field(ge=1, description="number of clients; may be left out if the data have clients of their own")] = (
        None
    )
    partition: Annotated[
        Partition | None, Field(description="how rows are dealt to clients; left out: the data's own clients, of any size")
    ] = None
    transforms: Annotated[tuple[Transform, ...], Field(strict=False, description="hidden groups of clients, made by these in order")] = ()
    test_fraction: Annotated[Fraction, Field(description="share of each client's own rows held out for testing, rounded half up")] = 0.5
    validation_fraction: Annotated[
        Fraction, Field(description="share of each client's own rows held out for validation, rounded half up")
    ] = 0.0
    held_out_clients: Annotated[
        Fraction, Field(description="share of the clients that never take part, to test models on strangers; rounded half up, at least 1")
    ] = 0.0
    participants: Annotated[
        int | None,
        Field(ge=1, description="so many of the data's own clients, drawn by the run's first seed; those of a larger number contain them"),
    ] = None
    split: Annotated[
        Split | None, Field(description="column that decides which rows test, {by: COLUMN} or {time: COLUMN}; null: chance")
    ] = None
    drift: Annotated[Drift | None, Field(description="clients that change to the next hidden group during a run")] = None

    @property
    def repeats(self) -> Literal["splits", "trainings", "deals", "draws"]:
        """What another seed brings: new splits of the rows that each client keeps (the data name their clients, and the same ones take
        part), other trainings on the same split of them (by time), the same rows dealt to new clients, or rows drawn by a generator."""
        if not isinstance(self.source, Table | RDataset | Arrays | Digits | Bundled):
            return "draws"
        own = isinstance(self.partition, Natural | None) and isinstance(self.source, Table | RDataset | Arrays)
        if not own or self.held_out_clients:
            return "deals"
        return "splits" if self.split is None or self.split.time is None else "trainings"

    @model_validator(mode="after")
    def _drifts_between_groups(self) -> Self:
        if self.drift is not None and all(transform.groups < 2 for transform in self.transforms):
            raise ValueError("drift moves clients from one hidden group to the next: add `transforms` with 2 or more groups")
        return self

    @model_validator(mode="after")
    def _fractions(self) -> Self:
        if self.test_fraction + self.validation_fraction >= 1:
            raise ValueError("test_fraction and validation_fraction leave no training rows: their sum must be below 1")
        return self


def deal(data: Data, seed: int, base_dir: Path, facts: Sequence[str] = (), first_seed: int | None = None) -> Federation:
    """The federation of a scenario: rows loaded, dealt to clients, split, standardised and transformed.

    Of the data's own clients, those with too few rows may be left out, and then some of the others drawn (`participants`), by first_seed,
    so that all seeds of a run have the same. Held-out (unseen) clients are dealt and transformed like the others, by their ids among
    all clients. The participants then get new ids from 0. Only the participants determine how inputs are made: a word that occurs only
    in an unseen client's rows becomes all zeros. Classes come from all rows.

    base_dir: the folder that relative paths start from. facts: columns of the table that say something of a client. first_seed: of the
    run; `seed` if left out. Raises SpecError if the federation cannot be made: too few rows, a missing file or column, for example.
    """
    pool = _load(data, seed, base_dir, facts)
    shares, kept = _shares(data, pool, seed)
    notes = [*pool.notes, *remarks(pool, isinstance(data.source, Columns | Arrays) and data.source.task is not None)]
    if isinstance(data.partition, Natural):
        notes += left_out(pool.names, kept, len(shares), data.partition.minimum)
    if data.participants is not None:
        kept = some_of(kept, data.participants, seed if first_seed is None else first_seed)
    clients = participants(len(kept), data.held_out_clients)
    ids = participants_first(kept, clients, seed)
    counts = np.array([len(shares[m]) for m in ids], dtype=np.int64)
    pool = _reorder(pool, np.concatenate([shares[m] for m in ids]))
    client = np.repeat(np.arange(len(ids)), counts)
    if data.split is None:
        part = split(counts, ids, data.test_fraction, data.validation_fraction, seed)
    else:
        field, name = data.split.column
        fractions = data.test_fraction, data.validation_fraction
        part = split_groups(counts, ids, pool.beside[field], *fractions, None if field == "time" else seed)
        notes += of_split(field, name, pool.beside[field], client, part == TEST)
    part[client >= clients] = _UNSEEN
    made = _inputs(pool, client, part == TRAIN, clients)
    own = isinstance(data.partition, Natural | None)

    def transformed(groups: NDArray[np.int64]) -> Federation:
        """The federation after the transforms. groups: `[clients]`; each transform uses them modulo its own number of groups."""
        x, y = made.x, made.y
        for place, transform in enumerate(data.transforms):
            x, y = transform.apply(x, y, groups[client] % transform.groups, pool.task, pool.outputs, seed, place)
        group = groups % math.lcm(*(transform.groups for transform in data.transforms))
        if own and pool.group is not None:
            _, group = np.unique(pool.group[ids] * (group.max() + 1) + group, return_inverse=True)
        group = group.astype(np.int64)

        def shards(which: int, whose: slice) -> Shards:
            rows = part == which
            starts = np.concatenate([[0], np.cumsum(np.bincount(client[rows], minlength=len(ids))[whose])]).astype(np.int64)
            return Shards(x, y, starts) if rows.all() else Shards(x[rows], y[rows], starts)

        stay, leave = slice(clients), slice(clients, None)
        return Federation(
            train=shards(TRAIN, stay),
            validation=shards(VALIDATION, stay),
            test=shards(TEST, stay),
            group=group[stay],
            task=pool.task,
            outputs=pool.outputs,
            label_scale=made.label_scale,
            uplink_bytes=made.uplink_bytes,
            downlink_bytes=made.downlink_bytes,
            encoding=_encoding(pool, made, ids[stay] if own else None),
            unseen=shards(_UNSEEN, leave),
            unseen_group=group[leave],
            facts={name: values[ids[stay]] for name, values in pool.facts.items()},
            written=pool.written,
            notes=tuple(notes),
            absent=tuple(pool.names[m] for m in np.setdiff1d(np.arange(len(pool.names)), ids[stay])) if own and pool.names else (),
        )

    federation = transformed(ids)
    if data.drift is None:
        return federation
    changing = np.argsort(hash64(seed, "drift", ids[:clients]), kind="stable")[: data.drift.of(clients)]
    after = ids.copy()
    after[changing] += 1
    return replace(federation, later=transformed(after), drift_round=data.drift.round)


def _encoding(pool: Pool, made: Standardised, ids: NDArray[np.int64] | None) -> Encoding:
    """How the pool's table was read. ids: the source's own clients that take part; None if rows were dealt to other clients."""
    return Encoding(
        inputs=made.inputs,
        label=pool.label,
        classes=None if pool.task == "regression" else pool.classes or tuple(range(pool.outputs)),
        label_mean=made.label_mean,
        label_scale=made.label_scale,
        client=None if ids is None else pool.client,
        clients=None if ids is None or pool.names is None else tuple(pool.names[m] for m in ids),
    )


def describe(federation: Federation) -> dict[str, Any]:
    """The facts that a plan shows: task, shape of an input, numbers of clients, rows of each part, and sizes of the shards."""
    counts = federation.train.counts
    return {
        "task": federation.task,
        "shape": list(federation.shape),
        "outputs": federation.outputs,
        "clients": federation.clients,
        "strangers": len(federation.unseen_group),
        "groups": len(np.unique(federation.group)),
        "train_rows": len(federation.train.x),
        "validation_rows": len(federation.validation.x),
        "test_rows": len(federation.test.x),
        "stranger_rows": len(federation.unseen.x),
        "smallest_shard": int(counts.min()),
        "median_shard": float(np.median(counts)),
        "largest_shard": int(counts.max()),
    }


def _load(data: Data, seed: int, base_dir: Path, facts: Sequence[str]) -> Pool:
    """All rows of the source, with the columns that other settings name. Raises SpecError where it has no such columns."""
    beside = {} if data.split is None else dict([data.split.column])
    own = isinstance(data.partition, Natural | None)
    if facts and not (isinstance(data.source, Columns) and own):
        raise SpecError(("scarcity", "column"), facts[0], "only a table whose rows name their client has columns of clients")
    if "by" in beside and not own:
        message = "rows that are dealt one by one part those of a value among clients: take the table's own clients, or leave `split` out"
        raise SpecError(("data", "split", "by"), beside["by"], message)
    if isinstance(data.source, Columns):
        return data.source.load(data.clients, seed, base_dir, facts, beside)
    for field, name in beside.items():
        raise SpecError(("data", "split", field), name, f"only a table has columns beside its inputs, and {data.source.kind} has none")
    return data.source.load(data.clients, seed, base_dir)


def _shares(data: Data, pool: Pool, seed: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Row numbers of each client; and the ids of those that hold enough rows, ascending."""
    if not isinstance(data.partition, Natural | None):
        clients = data.clients or pool.owners
        if clients is None:
            raise SpecError(("data", "clients"), None, f"say how many clients the {len(pool.y):,} rows are dealt to")
        if data.participants is not None:
            raise SpecError(("data", "participants"), data.participants, "rows are dealt to as many clients as `clients` says: set that")
        return partition(data.partition, pool.y, clients, stream(seed, "partition"), pool.task), np.arange(clients)
    if pool.owner is None or pool.owners is None:
        raise SpecError(
            ("data", "partition"),
            None if data.partition is None else data.partition.kind,
            "these rows have no clients of their own: choose dirichlet, iid, shards or quantity_skew, or name the table's `client` column",
        )
    if data.participants is not None and pool.names is None:
        raise SpecError(("data", "participants"), data.participants, "a generator makes as many clients as `clients` says: set that")
    if data.clients not in (None, pool.owners):
        message = f"the data have {pool.owners:,} clients of their own; leave `clients` out, or take some of them by `participants`"
        raise SpecError(("data", "clients"), data.clients, message)
    return natural(data.partition or Natural(minimum=1), pool.owner, pool.owners)


def _reorder(pool: Pool, order: NDArray[np.int64]) -> Pool:
    """The rows of the clients that stay, in this order: client after client. No copy if they are in this order already."""
    if np.array_equal(order, np.arange(len(pool.y))):
        return pool

    def ordered(column: Column) -> Column:
        return replace(column, codes=column.codes[order]) if isinstance(column, Categorical) else column[order]

    x = tuple(ordered(column) for column in pool.x) if isinstance(pool.x, tuple) else pool.x[order]
    return replace(pool, x=x, y=pool.y[order], owner=None, beside={field: ordered(column) for field, column in pool.beside.items()})


def _inputs(pool: Pool, client: NDArray[np.int64], training: NDArray[np.bool_], clients: int) -> Standardised:
    """Standardised inputs and targets. A source that is one array needs no standardising, and clients send no bytes for it."""
    if isinstance(pool.x, tuple):
        return standardise(pool, client, training, clients)
    no_bytes = np.zeros(clients, dtype=np.int64)
    return Standardised(pool.x, pool.y, Array(shape=pool.x.shape[1:]), 0.0, 1.0, no_bytes, no_bytes)
