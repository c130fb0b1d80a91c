"""Where each named parameter of a module lies in a row, and the way between rows and torch's own state dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ALIGN = 16  # each parameter starts on a 64-byte boundary (float32), so that products do not depend on its neighbours
_WIDTH = 32  # a row fills whole pairs of vectors, so that no element-wise operation meets a scalar tail


def _padded(numel: int, multiple: int) -> int:
    return -(-numel // multiple) * multiple


@dataclass(frozen=True)
class ParameterSlice:
    """One parameter: its place `start:start + numel` in the row, its shape in the row, and torch's shape from that."""

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

    Convolution weights lie channels-last inside. Buffers and parameters that need no gradient are constants: they are
    in the state dicts, not in the row. Padding is zero and stays zero.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        convolutions = {id(m.weight) for m in module.modules() if isinstance(m, nn.Conv2d)}
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        first = {id(p): name for name, p in trainable}
        start, slots = 0, []
        for name, p in trainable:
            last = id(p) in convolutions
            shape = (p.shape[0], p.shape[2], p.shape[3], p.shape[1]) if last else tuple(p.shape)
            slots.append(ParameterSlice(name, start, shape, last))
            start += _padded(p.numel(), _ALIGN)
        self.slots = tuple(slots)
        self.width = max(_padded(start, _WIDTH), _WIDTH)
        self.num_parameters = sum(p.numel() for _, p in trainable)
        self.aliases = {
            name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False) if id(p) in first and first[id(p)] != name
        }
        own = {slot.name for slot in slots} | set(self.aliases)
        self.constants = {name: value.detach().clone() for name, value in module.state_dict().items() if name not in own}

    def row(self, state: Mapping[str, Tensor]) -> Tensor:
        """The parameters of a state dict as a row `[P]`."""
        row = torch.zeros(self.width, dtype=self.dtype)
        for slot in self.slots:
            slot.torch_view(row[None])[0].copy_(state[slot.name].detach())
        return row

    def views(self, theta: Tensor) -> dict[str, Tensor]:
        """Each parameter of the rows `theta [k, P]`, sharing memory: name -> `[k, *shape in the row]`."""
        return {slot.name: slot.view(theta) for slot in self.slots}

    def mask(self, *names: str) -> Tensor:
        """A boolean row `[P]`: true where one of the named parameters lies (a head, a body)."""
        row = torch.zeros(self.width, dtype=torch.bool)
        for slot in self.slots:
            if slot.name in names:
                row[slot.start : slot.start + slot.numel] = True
        return row

    def state_dict(self, row: Tensor) -> dict[str, Tensor]:
        """What `load_state_dict` takes: torch's own names and shapes, from one row `[P]`. A copy."""
        own = {slot.name: slot.torch_view(row[None])[0].contiguous().clone() for slot in self.slots}
        own.update({name: own[first].clone() for name, first in self.aliases.items()})
        return own | {name: value.clone() for name, value in self.constants.items()}

    def state_dicts(self, rows: Tensor) -> dict[str, Tensor]:
        """Torch's own names, and `[k, *torch's shape]` of the parameters of `rows [k, P]`. A copy; no constants."""
        return {slot.name: slot.torch_view(rows).contiguous().clone() for slot in self.slots}
