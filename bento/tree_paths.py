"""Contributions along the decision path of each tree: an approximation of Shapley values in a fiftieth of their time.

Each split on the path of a row moves the expected value of the tree from that of the node to that of the child; the
difference is added to the feature of the split. The contributions of a row add up to the same total as Shapley values,
but a feature near the leaf gets more than its share.

Source: Saabas (2014), Interpreting random forests; compared with Shapley values by Lundberg et al. (2018).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bento.scorer import Scores

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TreePaths:
    """All nodes of a LightGBM booster, each with the node before it on its path.

    Arrays of shape (nodes,): ``parent``, which is the node itself for a root; ``feature`` of the split that leads to
    the node; ``step``, the change of the expected value by this split. ``first_leaf`` (trees,) is the node of leaf 0 of
    each tree. ``full_work`` is the sum over all leaves of the square of their depth, to which the time of TreeSHAP is
    proportional.
    """

    parent: Integers
    feature: Integers
    step: Scores
    first_leaf: Integers
    full_work: int

    @classmethod
    def of_file(cls, model_file: Path) -> "TreePaths":
        """Return the paths of the booster in ``model_file``, LightGBM's text format."""
        parents, features, values, counts, leaves, offset = [], [], [], [], [], 0
        for tree in _trees(model_file.read_text()):
            splits = len(tree["leaf_value"]) - 1
            nodes = 2 * splits + 1
            parent, feature = np.zeros(nodes, dtype=np.int64), np.zeros(nodes, dtype=np.int64)
            for side in ("left_child", "right_child") if splits else ():
                child = tree[side].astype(np.int64)
                # A negative child is the leaf with this number, counted down from -1.
                node = np.where(child < 0, splits - child - 1, child)
                parent[node], feature[node] = np.arange(splits), tree["split_feature"]
            parents.append(parent + offset)
            features.append(feature)
            values.append(np.concatenate([np.zeros(splits), tree["leaf_value"]]))
            counts.append(np.concatenate([np.zeros(splits), tree["leaf_count"] if splits else [1.0]]))
            leaves.append(np.arange(offset + splits, offset + nodes))
            offset += nodes
        parent = np.concatenate(parents)
        expected = _expected_values(parent, np.concatenate(values), np.concatenate(counts))
        return cls(
            parent,
            np.concatenate(features),
            expected - expected[parent],
            np.array([of_tree[0] for of_tree in leaves]),
            _full_work(parent, np.concatenate(leaves)),
        )

    def contributions(self, leaves: Integers, trees: Integers, features: int) -> Scores:
        """Return the contributions (rows, features) of the ``trees`` (trees,) to each row.

        ``leaves`` (rows, trees) is the number of the leaf in which each row ends, for these trees.
        """
        rows = len(leaves)
        node = self.first_leaf[trees] + leaves
        place = np.arange(rows)[:, np.newaxis] * features
        total = np.zeros(rows * features)
        before = self.parent[node]
        while (before != node).any():
            total += np.bincount(
                (place + self.feature[node]).ravel(), weights=self.step[node].ravel(), minlength=len(total)
            )
            node, before = before, self.parent[before]
        return total.reshape(rows, features)


def _trees(text: str) -> Iterator[dict[str, Scores]]:
    """Yield the arrays of each tree in the ``text`` of a model."""
    names = ("split_feature", "left_child", "right_child", "leaf_value", "leaf_count")
    for block in text.split("end of trees", 1)[0].split("\nTree=")[1:]:
        lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        yield {name: np.array(lines[name].split(), dtype=np.float64) for name in names if name in lines}


def _expected_values(parent: Integers, leaf_values: Scores, rows: Scores) -> Scores:
    """Return for each node the mean of the leaves below it, weighted with their training ``rows``.

    ``leaf_values`` and ``rows`` are 0 for nodes that are no leaves.
    """
    total, weight, node = leaf_values * rows, rows.copy(), np.flatnonzero(rows)
    added, counted = total[node], rows[node]
    while len(node):
        above = parent[node]
        below = above != node
        node, added, counted = above[below], added[below], counted[below]
        total += np.bincount(node, weights=added, minlength=len(total))
        weight += np.bincount(node, weights=counted, minlength=len(total))
    # A leaf without training rows keeps its value.
    return np.divide(total, weight, out=leaf_values.copy(), where=weight > 0)


def _full_work(parent: Integers, leaves: Integers) -> int:
    """Return the sum over the ``leaves`` of the square of their depth."""
    depth, node = np.zeros(len(leaves), dtype=np.int64), leaves
    while (below := parent[node] != node).any():
        depth += below
        node = parent[node]
    return int((depth**2).sum())
