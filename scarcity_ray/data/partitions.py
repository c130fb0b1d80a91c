"""How rows are dealt to clients: pure functions (labels, spec, rng) -> one array of row numbers per client.

Every row goes to exactly one client, and every client gets at least `minimum` rows. An impossible partition is refused with the
numbers that show why. No function retries at random: each finishes after a number of passes that is known in advance.
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

    After Hsu, Qi and Brown (2019): a class without remaining rows is removed from the proportions of the clients that need more rows.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, description="concentration: small for few classes a client, large for equal shares")]
    minimum: Minimum = 2


class Shards(Spec):
    """Label skew after McMahan et al. (2017): rows sorted by label, cut into shards, several dealt to each client; sizes are equal (+-1).

    A shard contains rows of one class or of two neighbouring classes.
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
    """The data's own clients: from a column of the table, or from the generator."""

    kind: Literal["natural"] = "natural"
    minimum: Minimum = 2
    below: Annotated[
        Literal["refuse", "drop"], Field(description="what to do with clients that hold fewer rows: refuse, or leave them out")
    ] = "refuse"


Partition = Annotated[Dirichlet | Shards | IID | QuantitySkew | Natural, Field(discriminator="kind")]


def partition(
    spec: Dirichlet | Shards | IID | QuantitySkew,
    labels: NDArray[Any],
    clients: int,
    rng: np.random.Generator,
    task: Task = "classification",
) -> list[NDArray[np.int64]]:
    """Deals the rows with these labels `[rows]` to `clients` clients. The m-th array contains client m's row numbers, ascending.

    Raises SpecError if there are too few rows or classes, or if the partition needs classes and the labels are not classes.
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
            "it deals by class, and a regression has no classes: use natural, iid or quantity_skew",
        )
    return _by_owner(
        _dirichlet(labels, clients, spec, rng) if isinstance(spec, Dirichlet) else _shards(labels, clients, spec, rng), clients
    )


def natural(spec: Natural, owner: NDArray[np.int64], clients: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Row numbers of each client; and the clients that hold enough rows, ascending. owner: `[rows]`, the client of each row.

    Raises SpecError where a client holds too few, unless such clients are dropped, and where none would be left.
    """
    counts = np.bincount(owner, minlength=clients)
    few, smallest = int((counts < spec.minimum).sum()), int(counts.min())
    if few == clients or (few and spec.below == "refuse"):
        remedy = "" if few == clients else "; `below: drop` leaves them out"
        raise SpecError(
            ("data", "partition", "minimum"),
            spec.minimum,
            f"{few:,} of {clients:,} clients hold fewer rows, the smallest {smallest}; `minimum: {smallest}` takes them all{remedy}",
        )
    return _by_owner(owner, clients), np.flatnonzero(counts >= spec.minimum)


def _by_owner(owner: NDArray[np.int64], clients: int) -> list[NDArray[np.int64]]:
    """Row numbers of each client, ascending, from the owner of each row."""
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
    """The owner of each row, `[rows]`.

    In each pass every client requests all the rows that it still needs, by its own proportions over the classes with remaining
    rows. If a class has too few rows for all requests, the requests that get a row are drawn at random, and the class has no
    rows left. So there are at most as many passes as classes.
    """
    _, code = np.unique(labels, return_inverse=True)
    left = np.bincount(code)
    needed = _even(len(labels), clients)
    proportions = np.nan_to_num(rng.dirichlet(np.full(len(left), spec.alpha), clients))
    dealt = np.zeros((clients, len(left)), dtype=np.int64)
    while needed.any():
        shares = proportions * (left > 0)
        total = shares.sum(axis=1, keepdims=True)
        # if no class of a client has rows left, it uses the proportions of all remaining rows
        shares = np.where(total > 0, shares / np.where(total > 0, total, 1.0), left / left.sum())
        requested = rng.multinomial(needed, shares)
        for c in np.flatnonzero(requested.sum(axis=0) > left):
            requested[:, c] = rng.multivariate_hypergeometric(requested[:, c], left[c], method="marginals")
        dealt += requested
        needed -= requested.sum(axis=1)
        left -= requested.sum(axis=0)
    owner = np.empty(len(labels), dtype=np.int64)
    owner[_by_class(code, rng)] = np.repeat(np.tile(np.arange(clients), len(left)), dealt.T.ravel())
    return owner


def _shards(labels: NDArray[Any], clients: int, spec: Shards, rng: np.random.Generator) -> NDArray[np.int64]:
    """The owner of each row, `[rows]`. Each client's size is cut into shards; all shards, in random order, divide the sorted rows."""
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
