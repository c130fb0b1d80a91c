"""Two halves of each client's rows, from its moments: what is found on one half can be judged on the other.

Clients do not send moments of halves for this. Moments determine a client's n rows up to a rotation, and under normal noise the
halves of any rotation are independent. The halves of a random rotation are drawn without the n rows: only the span of the
moments' own q rows matters, and n x q normal numbers have the triangular factor of Bartlett ("On the theory of statistical
regression", Proceedings of the Royal Society of Edinburgh 1933) with independent elements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scarcity_ray.ensemble.ridge import Rows


@dataclass(frozen=True)
class Half:
    """One half of each client's rows: `turn @ rows` for any values of a client's rows. turn: `[k, q, q]`. rows: `[k]`, their number."""

    turn: Tensor
    rows: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The half of values `[k, q, ...]`."""
        return (self.turn @ values.flatten(2)).reshape(values.shape)

    def part(self, whole: Rows) -> Rows:
        """The moments of this half as Rows, of Rows that `with_rest` returned."""
        outputs = whole.targets.shape[2]
        return replace(whole, features=self.of(whole.features), targets=self.of(whole.targets), numbers=self.rows.double() * outputs)


def with_rest(part: Rows) -> Rows:
    """The same moments with the targets outside the span of the features as rows, too: features of 0, and `rest` is 0 then.

    Only the size of that part is known. It is spread evenly over the outputs.
    """
    k, _, width = part.features.shape
    outputs = part.targets.shape[2]
    free = (part.numbers // outputs - ranks_of(part)).clamp(min=0, max=outputs)
    more = int(free.max())
    size = (part.rest / free.clamp(min=1)).sqrt()[:, None] * (torch.arange(more) < free[:, None])
    targets = torch.zeros(k, more, outputs, dtype=part.targets.dtype)
    targets[:, torch.arange(more), torch.arange(more)] = size
    features = torch.cat([part.features, part.features.new_zeros(k, more, width)], dim=1)
    rest = torch.where(free > 0, torch.zeros_like(part.rest), part.rest)
    return replace(part, features=features, targets=torch.cat([part.targets, targets], dim=1), rest=rest)


def halves(part: Rows, rng: np.random.Generator) -> tuple[Half, Half]:
    """Random halves of the rows of each client, of which the second has the odd row."""
    used = (part.features.square().sum(2) > 0) | (part.targets.square().sum(2) > 0)
    rows = torch.maximum(part.numbers / part.targets.shape[2], used.sum(1)).long()
    first, second = rows // 2, rows - rows // 2
    q = used.shape[1]
    both = used[:, :, None] & used[:, None, :]
    unused = torch.diag_embed((~used).to(part.features.dtype))
    top = torch.where(both, _triangular(first, used, rng), unused)
    bottom = torch.where(both, _triangular(second, used, rng), torch.zeros_like(unused))
    turn = torch.linalg.qr(torch.cat([top, bottom], dim=1)).Q * both.any(1)[:, None]
    return Half(turn[:, :q], first), Half(turn[:, q:], second)


def ranks_of(part: Rows) -> Tensor:
    """Number of rows of each client whose features are not zero, `[k]`."""
    return (part.features.square().sum(2) > 0).sum(1)


def _triangular(rows: Tensor, used: Tensor, rng: np.random.Generator) -> Tensor:
    """The triangular factors `[k, q, q]` of normal matrices of so many rows `[k]` and a column for each used row `[k, q]`."""
    k, q = used.shape
    free = (rows[:, None] - (used.cumsum(1) - 1)).clamp(min=0)  # rows that are left for each column
    size = np.sqrt(2 * rng.standard_gamma(np.maximum(free.numpy(), 1) / 2))
    normal = torch.from_numpy(rng.standard_normal((k, q, q))).triu(1)
    return (normal + torch.diag_embed(torch.from_numpy(size))) * (free > 0)[:, :, None]
