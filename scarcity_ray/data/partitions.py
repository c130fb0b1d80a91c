"""How rows are dealt to clients: pure functions (labels, spec, rng) -> one array of row numbers a client.

Every row lands at one client exactly once, every client has at least `minimum` rows, and a partition that cannot be made is
refused with the arithmetic. None of them retries until it is lucky: each finishes in a number of passes known beforehand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Task

Minimum = Annotated[int, Field(ge=1, description="fewest rows a client may hold, all its rows together")]


class Dirichlet(Spec):
    """Label skew: each client draws its class proportions from a symmetric Dirichlet; sizes are equal (+-1).

    After Hsu, Qi and Brown (2019), where a class that has run out is left out of the proportions of those still asking.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, description="concentration: small for few classes a client, large for equal shares")]
    minimum: Minimum = 2


class Shards(Spec):
    """Label skew after McMahan et al. (2017): rows sorted by label, cut into shards, so many dealt to each client; sizes are equal (+-1).

    A shard lies within one class, or straddles two that are neighbours.
    """

    kind: Literal["shards"] = "shards"
    classes_per_client: Annotated[int, Field(ge=1, description="label-sorted shards dealt to each client")]
    minimum: Minimum = 2


class IID(Spec):
    """Rows dealt at random; sizes are equal (+-1)."""

    kind: Literal["iid"] = "iid"
    minimum: Minimum = 2


class QuantitySkew(Spec):
    """Rows dealt at random; each client has `minimum` rows and a log-normal share of the others."""

    kind: Literal["quantity_skew"] = "quantity_skew"
    sigma: Annotated[float, Field(ge=0, le=10, description="standard deviation of the logarithm of a client's share; 0 for equal")]
    minimum: Minimum = 2


class Natural(Spec):
    """The clients that the data themselves have: a column of the table, or the generator's."""

    kind: Literal["natural"] = "natural"
    minimum: Minimum = 2


Partition = Annotated[Dirichlet | Shards | IID | QuantitySkew | Natural, Field(discriminator="kind")]


def partition(
    spec: Dirichlet | Shards | IID | QuantitySkew,
    labels: NDArray[Any],
    clients: int,
    rng: np.random.Generator,
    task: Task = "classification",
) -> list[NDArray[np.int64]]:
    """Deals the rows with these labels `[rows]` to `clients` clients; client m's row numbers, rising, are the m-th array.

    Raises SpecError where there are too few rows or classes, or where the labels are no classes and the partition needs them.
    """
    rows = len(labels)
    if clients * spec.minimum > rows:
        raise SpecError(
            ("data", "clients"),
            clients,
            f"{clients:,} clients of at least {spec.minimum} rows (`minimum`) need {clients * spec.minimum:,} rows; "
            f"there are {rows:,}, enough for {rows // spec.minimum:,} clients",
        )
    if isinstance(spec, IID):
        return _by_owner(rng.permutation(np.repeat(np.arange(clients), _even(rows, clients))), clients)
    if isinstance(spec, QuantitySkew):
        return _by_owner(rng.permutation(np.repeat(np.arange(clients), _skewed(rows, clients, spec, rng))), clients)
    if task == "regression":
        raise SpecError(
            ("data", "partition", "kind"),
            spec.kind,
            "it deals by class, and a regression has none; natural, iid and quantity_skew work",
        )
    return _by_owner(
        _dirichlet(labels, clients, spec, rng) if isinstance(spec, Dirichlet) else _shards(labels, clients, spec, rng), clients
    )


def natural(spec: Natural, owner: NDArray[np.int64], clients: int) -> list[NDArray[np.int64]]:
    """Row numbers of each client, given the client that each row belongs to, `[rows]`."""
    counts = np.bincount(owner, minlength=clients)
    few, smallest = int((counts < spec.minimum).sum()), int(counts.min())
    if few:
        raise SpecError(
            ("data", "partition", "minimum"),
            spec.minimum,
            f"{few:,} of {clients:,} clients hold fewer rows, the smallest {smallest}; `minimum: {smallest}` takes them all",
        )
    return _by_owner(owner, clients)


def _by_owner(owner: NDArray[np.int64], clients: int) -> list[NDArray[np.int64]]:
    """Row numbers of each client, rising, from the owner of each row."""
    ends = np.cumsum(np.bincount(owner, minlength=clients))
    return np.split(np.argsort(owner, kind="stable"), ends[:-1])


def _even(rows: int, parts: int) -> NDArray[np.int64]:
    """Sizes that sum to rows and differ by at most 1."""
    sizes: NDArray[np.int64] = rows // parts + (np.arange(parts) < rows % parts).astype(np.int64)
    return sizes


def _skewed(rows: int, clients: int, spec: QuantitySkew, rng: np.random.Generator) -> NDArray[np.int64]:
    """`minimum` each, and the rest by log-normal weights, rounded by largest remainder."""
    rest = rows - clients * spec.minimum
    weight = rng.lognormal(0.0, spec.sigma, clients)
    share = rest * weight / weight.sum()
    sizes: NDArray[np.int64] = np.floor(share).astype(np.int64)
    sizes[np.argsort(sizes - share, kind="stable")[: rest - sizes.sum()]] += 1
    sizes += spec.minimum
    return sizes


def _dirichlet(labels: NDArray[Any], clients: int, spec: Dirichlet, rng: np.random.Generator) -> NDArray[np.int64]:
    """The owner of each row.

    In a pass every client asks for all the rows it still lacks, by its own proportions over the classes that are left; where a
    class cannot serve everybody, the requests it serves are drawn at random. A pass that serves not everybody empties a
    class, so there are at most as many passes as classes.
    """
    _, code = np.unique(labels, return_inverse=True)
    left = np.bincount(code)
    lacking = _even(len(labels), clients)
    proportions = np.nan_to_num(rng.dirichlet(np.full(len(left), spec.alpha), clients))
    held = np.zeros((clients, len(left)), dtype=np.int64)
    while lacking.any():
        wish = proportions * (left > 0)
        total = wish.sum(axis=1, keepdims=True)
        # a client whose own classes have all run out takes what is left as it is
        wish = np.where(total > 0, wish / np.where(total > 0, total, 1.0), left / left.sum())
        asked = rng.multinomial(lacking, wish)
        for c in np.flatnonzero(asked.sum(axis=0) > left):
            asked[:, c] = rng.multivariate_hypergeometric(asked[:, c], left[c], method="marginals")
        held += asked
        lacking -= asked.sum(axis=1)
        left -= asked.sum(axis=0)
    owner = np.empty(len(labels), dtype=np.int64)
    owner[_by_class(code, rng)] = np.repeat(np.tile(np.arange(clients), len(left)), held.T.ravel())
    return owner


def _shards(labels: NDArray[Any], clients: int, spec: Shards, rng: np.random.Generator) -> NDArray[np.int64]:
    """The owner of each row: each client's size is cut into shards, and all shards, in random order, are laid along the sorted rows."""
    each, rows = spec.classes_per_client, len(labels)
    classes, code = np.unique(labels, return_inverse=True)
    if each > len(classes):
        raise SpecError(("data", "partition", "classes_per_client"), each, f"there are {len(classes)} classes")
    if clients * each > rows:
        raise SpecError(
            ("data", "partition", "classes_per_client"),
            each,
            f"{clients:,} clients x {each} shards need {clients * each:,} rows; there are {rows:,}",
        )
    sizes = _even(rows, clients)[:, None]
    shard = sizes // each + (np.arange(each) < sizes % each)
    order = rng.permutation(clients * each)
    owner = np.empty(rows, dtype=np.int64)
    owner[_by_class(code, rng)] = np.repeat(order // each, shard.ravel()[order])
    return owner


def _by_class(code: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers, class after class, in random order within each."""
    mixed = rng.permutation(len(code))
    order: NDArray[np.int64] = mixed[np.argsort(code[mixed], kind="stable")]
    return order
