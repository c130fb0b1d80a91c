"""Linear heads: as modules, as state dicts with torch's own names, and as rows of parameters."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from scarcity_ray.training.layout import Layout


def represented(representation: nn.Module, width: int, outputs: int) -> nn.Sequential:
    """A whole model: the representation, then a linear head (zero at first)."""
    return nn.Sequential(OrderedDict(representation=representation, head=linear_head(width, outputs)[0]))


def linear_head(width: int, outputs: int) -> nn.Sequential:
    """The head alone, under the name it has in a whole model; zero at first."""
    head = nn.Linear(width, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(OrderedDict(head=head))


def head_state(head: Tensor) -> dict[str, Tensor]:
    """A head `[..., width + 1, outputs]`, the constant's row last, by torch's own names and shapes (float32)."""
    rows = head.float()
    return {"head.weight": rows[..., :-1, :].mT.contiguous(), "head.bias": rows[..., -1, :].contiguous()}


def as_rows(heads: Tensor) -> Tensor:
    """Heads `[k, width + 1, outputs]` as rows of the parameters of `linear_head`, `[k, P]` float32."""
    layout = Layout(linear_head(heads.shape[1] - 1, heads.shape[2]))
    rows = torch.zeros(len(heads), layout.width)
    views = layout.views(rows)
    for name, value in head_state(heads).items():
        views[name].copy_(value)
    return rows


def placed(values: Tensor, kept: Tensor, *dims: int) -> Tensor:
    """Coefficients of some features among those of all, 0 for the others. kept: bool `[all]`. dims: which dimensions count features."""
    places = kept.nonzero()[:, 0]
    for dim in dims:
        shape = (*values.shape[:dim], len(kept), *values.shape[dim + 1 :])
        values = values.new_zeros(shape).index_copy(dim, places, values)
    return values
