"""Parts of a model by a word: its head, its body, its norm layers, or parameters by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from scarcity_ray.core.spec import SpecError
from scarcity_ray.training.layout import Layout
from scarcity_ray.training.problem import Problem

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def part_of(problem: Problem, which: str | Sequence[str]) -> Tensor:
    """The numbers of a row that belong to a part of the model, boolean `[P]`, not to be changed; padding belongs to none.

    which: head, the layer with parameters that answers last, a linear one where there is any; body, all others; norms, those of norm
    layers; or names of parameters, or of modules, as torch calls them (`2.weight`, `2`).
    Raises SpecError at ("private",) for a name that the model has not, and where it has no norm layer.
    """
    return _mask(problem.module, problem.layout, problem.shape, which if isinstance(which, str) else tuple(which))


@lru_cache(maxsize=32)  # asked for several times in each chunk of a round; the head takes a pass through the model
def _mask(module: nn.Module, layout: Layout, shape: tuple[int, ...], which: str | tuple[str, ...]) -> Tensor:
    names = [part.name for part in layout.slices]
    if which == "norms":
        owners = [path for path, layer in module.named_modules() if isinstance(layer, _NORMS)]
        if not (chosen := _of(names, owners)):
            raise SpecError(("private",), which, "the model has no norm layer with parameters: use head or body, or name parameters")
        return layout.mask(*chosen)
    if isinstance(which, str):
        head = _of(names, [_head(module, layout, shape)])
        return layout.mask(*(head if which == "head" else [name for name in names if name not in head]))
    for path in which:
        if not path or not _of(names, [path]):
            raise SpecError(("private",), list(which), f"the model has no parameter or module {path!r}; it has {', '.join(names)}")
    return layout.mask(*_of(names, which))


def _of(names: Sequence[str], owners: Sequence[str]) -> list[str]:
    """The parameters with one of these names, or of modules with one; the module "" has all."""
    return [name for name in names if any(owner in ("", name) or name.startswith(f"{owner}.") for owner in owners)]


def _head(module: nn.Module, layout: Layout, shape: tuple[int, ...]) -> str:
    """The path of the layer with trained parameters of its own that answers last on a batch: of `nn.Linear` ones where there are any.

    Raises SpecError where it shares a parameter with another layer.
    """
    called = list[str]()
    owners = dict.fromkeys(part.name.rpartition(".")[0] for part in layout.slices)
    hooks = [module.get_submodule(path).register_forward_hook(lambda *_, path=path: called.append(path)) for path in owners]
    try:
        with torch.no_grad():
            module(torch.zeros(2, *shape, dtype=next(module.parameters()).dtype))
    finally:
        for hook in hooks:
            hook.remove()
    called = called or list(owners)
    found = ([path for path in called if isinstance(module.get_submodule(path), nn.Linear)] or called)[-1]
    if shared := [name for name in layout.aliases if name.rpartition(".")[0] == found]:
        message = f"the head {found} shares {shared[0]} with {layout.aliases[shared[0]]}: name what stays with a client"
        raise SpecError(("private",), "head", message)
    return found


def rest_of(problem: Problem, which: str | Sequence[str]) -> Tensor:
    """The numbers of a row that do not belong to a part, boolean `[P]`; padding is not among them."""
    return problem.layout.mask(*(part.name for part in problem.layout.slices)) & ~part_of(problem, which)


def runs(mask: Tensor) -> list[slice]:
    """The ranges of places at which a boolean row is true, as few as there can be."""
    edges = np.flatnonzero(np.diff(mask.numpy(), prepend=False, append=False)).tolist()
    return [slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def numbers_of(rows: Tensor, mask: Tensor) -> Tensor:
    """The numbers at the places of a mask: `[k, P]` -> `[k, size]`. By ranges: it takes a tenth of an index's time."""
    found = [rows[:, run] for run in runs(mask)]
    return torch.cat(found, dim=1) if found else rows[:, :0]


def put_numbers(rows: Tensor, mask: Tensor, values: Tensor) -> None:
    """Writes values `[1 or k, size]` to the places of a mask of `rows [k, P]`."""
    start = 0
    for run in runs(mask):
        size = run.stop - run.start
        rows[:, run] = values[:, start : start + size]
        start += size
