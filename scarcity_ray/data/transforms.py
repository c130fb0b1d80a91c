"""Hidden groups: all clients of a group have the same change of their inputs or labels."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scarcity_ray.core.randomness import stream
from scarcity_ray.core.spec import Spec, SpecError
from scarcity_ray.data.pool import Task

Groups = Annotated[int, Field(ge=1, description="number of groups; a client's group is client_id % groups, and group 0 stays as it is")]
Rows = tuple[NDArray[np.float32], NDArray[Any]]


class Rotate(Spec):
    """Rotates the images of group g by 90 g degrees, counter-clockwise."""

    kind: Literal["rotate"] = "rotate"
    groups: Annotated[int, Field(ge=1, le=4, description="number of groups; a client's group is client_id % groups")] = 3

    def apply(
        self, x: NDArray[np.float32], y: NDArray[Any], group: NDArray[np.int64], task: Task, outputs: int, seed: int, place: int
    ) -> Rows:
        """Needs square inputs: [H, W], [C, H, W] or flat with a square length, as 64."""
        shape = x.shape[1:]
        side = math.isqrt(shape[0]) if len(shape) == 1 else shape[-1]
        if len(shape) > 3 or (side * side != shape[0] if len(shape) == 1 else shape[-2] != side):
            raise SpecError(
                ("data", "transforms", place, "kind"),
                "rotate",
                f"inputs of shape {list(shape)} are not square images: [H, H], [C, H, H] or [H * H]",
            )
        images = (x.reshape(-1, side, side) if len(shape) == 1 else x).copy()
        for g in range(1, self.groups):
            rows = group == g
            images[rows] = np.rot90(images[rows], g, axes=(-2, -1))
        return images.reshape(x.shape), y


class Affine(Spec):
    """Applies a seeded orthogonal map and a shift to the inputs of group g: they are permuted, some change sign, and all are shifted.

    The map is a signed permutation: it is orthogonal, and exact, so it gives the same bits on every machine.
    """

    kind: Literal["affine"] = "affine"
    groups: Groups = 3
    shift: Annotated[float, Field(ge=0, description="standard deviation of a group's shift, in units of the inputs")] = 0.5

    def apply(
        self, x: NDArray[np.float32], y: NDArray[Any], group: NDArray[np.int64], task: Task, outputs: int, seed: int, place: int
    ) -> Rows:
        """Works on inputs of any shape. Each input is treated as one vector."""
        flat = x.reshape(len(x), -1).copy()
        for g in range(1, self.groups):
            draw = stream(seed, "affine", place, g)
            order, sign = draw.permutation(flat.shape[1]), draw.choice(np.array([-1, 1], dtype=np.float32), flat.shape[1])
            rows = group == g
            flat[rows] = flat[rows][:, order] * sign + (self.shift * draw.standard_normal(flat.shape[1])).astype(np.float32)
        return flat.reshape(x.shape), y


class PermuteLabels(Spec):
    """Renames the classes of group g by a seeded permutation. Each group has a different one."""

    kind: Literal["permute_labels"] = "permute_labels"
    groups: Groups = 3

    def apply(
        self, x: NDArray[np.float32], y: NDArray[Any], group: NDArray[np.int64], task: Task, outputs: int, seed: int, place: int
    ) -> Rows:
        """Needs classes, and enough of them for a different permutation in each group."""
        if task == "regression":
            raise SpecError(("data", "transforms", place, "kind"), "permute_labels", "a regression has no classes to rename")
        if outputs < 10 and self.groups > math.factorial(outputs):
            raise SpecError(
                ("data", "transforms", place, "groups"), self.groups, f"{outputs} classes have only {math.factorial(outputs)} permutations"
            )
        draw, taken, y = stream(seed, "permute labels", place), [tuple(range(outputs))], y.copy()
        for g in range(1, self.groups):
            while (names := tuple(draw.permutation(outputs).tolist())) in taken:
                pass
            taken.append(names)
            rows = group == g
            y[rows] = np.array(names)[y[rows]]
        return x, y


Transform = Annotated[Rotate | Affine | PermuteLabels, Field(discriminator="kind")]
