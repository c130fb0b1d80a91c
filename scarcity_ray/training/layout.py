"""The place of each named parameter of a module in a row, and the conversion between rows and torch's state dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ALIGN = 16  # each parameter starts on a 64-byte boundary (float32), so that products do not depend on the parameters before it
_WIDTH = 32  # a row is a whole number of pairs of vectors, so that element-wise operations have no scalar remainder


def _padded(numel: int, multiple: int) -> int:
    return -(-numel // multiple) * multiple


@dataclass(frozen=True)
class ParameterSlice:
    """One parameter: its place `start:start + numel` in the row and its shape there. channels_last: its shape in torch differs."""

    name: str
    start: int
    shape: tuple[int, ...]
    channels_last: bool

    @property
    def numel(self) -> int:
        """Elements of the parameter."""
        return math.prod(self.shape)

    def view(self, theta: Tensor) -> Tensor:
        """The parameter of each row of `theta [k, P]`: `[k, *shape]`, sharing memory."""
        return theta[:, self.start : self.start + self.numel].view(theta.shape[0], *self.shape)

    def torch_view(self, theta: Tensor) -> Tensor:
        """The same with torch's shape: convolution weights `[k, out, in, height, width]`."""
        view = self.view(theta)
        return view.permute(0, 1, 4, 2, 3) if self.channels_last else view


class Layout:
    """The trainable parameters of a module as one padded row.

    Convolution weights are stored channels-last. Buffers and parameters without a gradient are constants: they are in
    the state dicts, not in the row. Padding is zero and stays zero.

    slices: the parameters in the order of the row. width: length P of a row. num_parameters: elements without padding.
    aliases: other names of shared parameters. constants: values by name.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        convolutions = {id(m.weight) for m in module.modules() if isinstance(m, nn.Conv2d)}
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        first = {id(p): name for name, p in trainable}
        start, slices = 0, []
        for name, p in trainable:
            last = id(p) in convolutions
            shape = (p.shape[0], p.shape[2], p.shape[3], p.shape[1]) if last else tuple(p.shape)
            slices.append(ParameterSlice(name, start, shape, last))
            start += _padded(p.numel(), _ALIGN)
        self.slices = tuple(slices)
        self.width = max(_padded(start, _WIDTH), _WIDTH)
        self.num_parameters = sum(p.numel() for _, p in trainable)
        self.aliases = {
            name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False) if id(p) in first and first[id(p)] != name
        }
        own = {part.name for part in slices} | set(self.aliases)
        self.constants = {name: value.detach().clone() for name, value in module.state_dict().items() if name not in own}

    def row(self, state: Mapping[str, Tensor]) -> Tensor:
        """The parameters of a state dict as a row `[P]`."""
        row = torch.zeros(self.width, dtype=self.dtype)
        for part in self.slices:
            part.torch_view(row[None])[0].copy_(state[part.name].detach())
        return row

    def views(self, theta: Tensor) -> dict[str, Tensor]:
        """Each parameter of the rows `theta [k, P]`, sharing memory: name -> `[k, *shape in the row]`."""
        return {part.name: part.view(theta) for part in self.slices}

    def mask(self, *names: str) -> Tensor:
        """A boolean row `[P]`: true at the places of the named parameters (of a head or a body, for example)."""
        row = torch.zeros(self.width, dtype=torch.bool)
        for part in self.slices:
            if part.name in names:
                row[part.start : part.start + part.numel] = True
        return row

    def state_dict(self, row: Tensor) -> dict[str, Tensor]:
        """A state dict for `load_state_dict`, with torch's own names and shapes, from one row `[P]`. A copy."""
        own = {part.name: part.torch_view(row[None])[0].contiguous().clone() for part in self.slices}
        own.update({name: own[first].clone() for name, first in self.aliases.items()})
        return own | {name: value.clone() for name, value in self.constants.items()}

    def state_dicts(self, rows: Tensor) -> dict[str, Tensor]:
        """The parameters of `rows [k, P]` by torch's own names, each `[k, *torch's shape]`. A copy, without constants."""
        return {part.name: part.torch_view(rows).contiguous().clone() for part in self.slices}
