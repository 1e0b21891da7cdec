"""A small regression tree of the losses of a prediction, stored as numbers, so that no library is needed to read it."""

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from ml_platform.tasks.metrics import Array

LARGEST_TREE = 16
"""Leaves of the tree; a leaf has a fortieth of the rows, and 50 at least."""

LEAST_ROWS, LEAST_SHARE = 50, 40


class LossTree(BaseModel):
    """Nodes by number: an inner node compares the input ``inputs[node]`` with ``thresholds[node]``, a leaf has -1.

    ``values`` are the mean losses of the rows of each node, by name.
    """

    model_config = ConfigDict(frozen=True)

    inputs: list[int]
    thresholds: list[float]
    left: list[int]
    right: list[int]
    values: dict[str, list[float]]

    def expected(self, rows: Array) -> dict[str, Array]:
        """Return the expected losses by name of ``rows`` (rows, inputs), each of shape (rows,)."""
        inputs, thresholds = np.array(self.inputs), np.array(self.thresholds)
        left, right = np.array(self.left), np.array(self.right)
        node = np.zeros(len(rows), dtype=np.int64)
        while (inner := inputs[node] >= 0).any():
            at = node[inner]
            goes_left = rows[inner, inputs[at]] <= thresholds[at]
            node[inner] = np.where(goes_left, left[at], right[at])
        return {name: np.array(values)[node] for name, values in self.values.items()}


def fit_loss_tree(rows: Array, losses: Mapping[str, Array]) -> LossTree:
    """Return the tree of ``losses`` (each of shape (rows,)) by the inputs ``rows`` (rows, inputs).

    Equal rows give an equal tree. All losses share the nodes, each in units of its standard deviation.
    """
    from sklearn.tree import DecisionTreeRegressor

    target = np.column_stack([each / (each.std() or 1.0) for each in losses.values()])
    least = max(LEAST_ROWS, len(rows) // LEAST_SHARE)
    tree = DecisionTreeRegressor(max_leaf_nodes=LARGEST_TREE, min_samples_leaf=least, random_state=0)
    # The library compares in single precision.
    single = rows.astype(np.float32)
    fitted = tree.fit(single, target).tree_
    member = tree.decision_path(single).toarray().astype(np.float64)
    sizes = member.sum(axis=0)
    return LossTree(
        inputs=[int(each) if each >= 0 else -1 for each in fitted.feature],
        thresholds=[float(each) for each in fitted.threshold],
        left=[int(each) for each in fitted.children_left],
        right=[int(each) for each in fitted.children_right],
        values={name: (each @ member / sizes).tolist() for name, each in losses.items()},
    )
