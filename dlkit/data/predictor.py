"""What every trained model is to `eval`, `predict` and `splitcheck`, whatever library made it."""

from typing import Protocol

import numpy as np

from dlkit.data.dataset import Rows
from dlkit.data.schema import Schema


class Predictor(Protocol):
    """A model that is ready to predict. `nn.predictor` and `ml.persist` make one of a run directory."""

    @property
    def schema(self) -> Schema:
        """Columns, categories and classes as at fit; `schema.classes` are the columns of what `predict` returns."""

    @property
    def task(self) -> str:
        """classification (of which clusters are one) or regression."""

    def predict(self, rows: Rows) -> np.ndarray:
        """N×classes probabilities, or N values in the target's own units, float64. No target is needed.

        Columns are found by name; one that is missing, or holds what training did not: bad data.
        """
