"""The data sets that scikit-learn contains: no download is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from scarcity_ray.core.spec import Spec
from scarcity_ray.data.pool import Pool


class Digits(Spec):
    """1,797 handwritten digits of 8 x 8 pixels, scaled to 0 .. 1."""

    kind: Literal["digits"] = "digits"
    image: Annotated[bool, Field(description="inputs as [1, 8, 8] images, for a cnn, instead of 64 numbers")] = False

    def load(self, clients: int | None, seed: int, base_dir: Path) -> Pool:
        """The rows; they belong to no client yet. The image format defines the scale, so clients send nothing for it."""
        from sklearn.datasets import load_digits  # here, because it takes half a second to import

        x, y = load_digits(return_X_y=True)
        shape = (-1, 1, 8, 8) if self.image else (-1, 64)
        return Pool((x / 16.0).astype(np.float32).reshape(shape), y.astype(np.int64), "classification", 10)


class Bundled(Spec):
    """A small table from scikit-learn, standardised by the clients' summed moments.

    breast_cancer: 569 x 30, 2 classes. wine: 178 x 13, 3 classes. diabetes: 442 x 10, regression. Columns and classes have
    scikit-learn's names; the label is `target`.
    """

    kind: Literal["breast_cancer", "wine", "diabetes"]

    def load(self, clients: int | None, seed: int, base_dir: Path) -> Pool:
        """The rows; they belong to no client yet."""
        from sklearn import datasets  # here, because it takes half a second to import

        if self.kind == "diabetes":
            table = datasets.load_diabetes(scaled=False)
        else:
            table = datasets.load_wine() if self.kind == "wine" else datasets.load_breast_cancer()
        x, inputs = tuple(table.data.T.astype(np.float64)), tuple((str(name), 1) for name in table.feature_names)
        if self.kind == "diabetes":
            return Pool(x, table.target.astype(np.float64)[:, None], "regression", 1, inputs=inputs, label="target")
        classes = tuple(str(name) for name in table.target_names)
        y = table.target.astype(np.int64)
        return Pool(x, y, "classification", len(classes), inputs=inputs, label="target", classes=classes)
