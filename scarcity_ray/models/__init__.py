"""The models that YAML can name, as torch modules. Their initial weights depend on the seed alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scarcity_ray.models.build import build
from scarcity_ray.models.specs import CNN, MLP, Import, Linear

AnyModel = Annotated[Linear | MLP | CNN | Import, Field(discriminator="kind")]

__all__ = ["CNN", "MLP", "AnyModel", "Import", "Linear", "build"]
