"""Transforms of what clients send: one a file, registered under the `kind` that YAML names; `pipeline` applies a list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scarcity_ray.core.uplink import UPLINK, UplinkTransform

UPLINK.collect(__name__)

if TYPE_CHECKING:
    AnyTransform = UplinkTransform
else:
    AnyTransform = UPLINK.annotation()

__all__ = ["AnyTransform", "UplinkTransform"]
