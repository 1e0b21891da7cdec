"""Scores rows with a network of the torch trainer; the forward pass is in numpy, so a bento carries no torch.

It computes in float64, as training's own predictions on a CPU do. Both agree to the last bits for every batch size.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bento.scorer import Features, Scores
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task

CHUNK_ROWS = 1024
MIN_PROBABILITY = 1e-6
"""Scores are clipped to this distance from 0 and 1 before taking their log-odds."""


def load(model_dir: Path) -> "NetworkScorer":
    """Return the network in `network.json` and `network.npz` of ``model_dir``."""
    with np.load(model_dir / "network.npz", allow_pickle=False) as archive:
        tensors = {
            name: archive[name] if archive[name].dtype == bool else archive[name].astype(np.float64)
            for name in archive.files
        }
    with np.load(model_dir / "background.npz", allow_pickle=False) as archive:
        background = archive["rows"]
    architecture = json.loads((model_dir / "network.json").read_text())
    task = json.loads((model_dir / "torch.json").read_text())["task"]
    return NetworkScorer(tensors, architecture, background, task=as_task(task))


class NetworkScorer:
    """A TabM network: its members share weights, each member has its own scales, and the score is their mean.

    ``architecture`` describes the layers. ``background`` (rows, features) are the rows that contributions are measured
    against. After Gorishniy, Kotelnikov and Babenko (2025), TabM: Advancing tabular deep learning with
    parameter-efficient ensembling.
    """

    def __init__(
        self, tensors: Mapping[str, Scores], architecture: Mapping[str, Any], background: Features, *, task: Task
    ) -> None:
        self._tensors, self._architecture, self._background = tensors, architecture, background
        self._task = task
        self._numbers = [int(column) for column in architecture["numbers"]]
        self._categories = {int(column): int(count) for column, count in architecture["categories"].items()}
        # A network that was saved without bounds takes its inputs unclipped.
        self._input_bounds: tuple[Scores, Scores] | None = None
        if architecture.get("bounded", False):
            self._input_bounds = (
                np.array([each[0] for each in architecture["edges"]]),
                np.array([each[-1] for each in architecture["edges"]]),
            )
        self._layers = [
            {name: tensors[f"backbone.blocks.{block}.0.{name}"] for name in ("weight", "r", "s", "bias")}
            for block in range(architecture["blocks"])
        ]

    def predict(self, features: Features) -> Scores:
        """Return the mean of the members' probabilities (or values), shape (rows, outputs)."""
        chunks = range(0, len(features), CHUNK_ROWS)
        scores = [
            self._scores(self._first_layer(self._embed(features[index : index + CHUNK_ROWS]))) for index in chunks
        ]
        return np.concatenate(scores) if scores else np.empty((0, self._task.outputs))

    def contributions(self, features: Features) -> Scores:
        """Return each score minus its mean when one feature takes its values from the background rows.

        Shape (rows, features), in log-odds or units of the label. A feature that the network does not read contributes
        0. Of several outputs, the one that the task explains is used, for example the most probable class.
        After Robnik-Sikonja and Kononenko (2008), Explaining classifications for individual instances.
        """
        layer, columns = self._layers[0], [*self._numbers, *self._categories]
        size, background = self._architecture["embedding_size"], self._embed(self._background)
        weight = layer["weight"].reshape(len(layer["weight"]), len(columns), size)
        scale = layer["r"].reshape(len(layer["r"]), len(columns), size)
        contributions = np.zeros(features.shape)
        for row, inputs in enumerate(self._embed(features)):
            pre_activation = self._first_layer(inputs[np.newaxis])
            outputs = self._scores(pre_activation)
            explained = int(self._task.explained_output(outputs)[0])
            odds = self._log_odds(outputs[:, explained])
            # A replaced feature changes only its own terms of the first layer; the rest is not computed again.
            change = (background - inputs).reshape(len(background), len(columns), size)
            moved = np.einsum("bfe,kfe,wfe->bfkw", change, scale, weight, optimize=True) * layer["s"]
            changed = self._scores((pre_activation + moved).reshape(-1, *pre_activation.shape[1:]))[:, explained]
            changed = changed.reshape(len(background), -1)
            contributions[row, columns] = odds - self._log_odds(changed).mean(axis=0)
        return contributions

    def _embed(self, features: Features) -> Scores:
        """Return the network's inputs (rows, fields x embedding size)."""
        rows, parts = features.astype(np.float64), []
        if self._numbers:
            values = (rows[:, self._numbers] - self._tensors["mean"]) / self._tensors["scale"]
            if self._input_bounds is not None:
                values = np.clip(values, *self._input_bounds)
            missing = np.isnan(values)
            embedded = self._embed_numbers(np.where(missing, 0.0, values))
            parts.append(np.where(missing[..., np.newaxis], self._tensors["gaps"], embedded).reshape(len(rows), -1))
        for index, (column, count) in enumerate(self._categories.items()):
            codes = np.nan_to_num(rows[:, column], nan=count).astype(np.int64)
            parts.append(self._tensors[f"categories.{index}.weight"][codes])
        return np.concatenate(parts, axis=1)

    def _embed_numbers(self, values: Scores) -> Scores:
        """Return a piecewise-linear embedding of each number, shape (rows, numbers, embedding size).

        After Gorishniy, Rubachev and Babenko (2022), On embeddings for numerical features in tabular deep learning.
        """
        tensors, value = self._tensors, values[..., np.newaxis]
        bins = tensors["numbers.impl.bias"] + tensors["numbers.impl.weight"] * value
        if bins.shape[-1] > 1:
            single_bin: npt.NDArray[Any] = tensors.get(
                "numbers.impl.single_bin_mask", np.zeros(len(self._numbers), bool)
            )
            last = np.where(single_bin, bins[..., -1], np.maximum(bins[..., -1], 0))
            bins[..., 0] = np.minimum(bins[..., 0], 1)
            bins[..., 1:-1] = np.clip(bins[..., 1:-1], 0, 1)
            bins[..., -1] = last
        piecewise = (bins.transpose(1, 0, 2) @ tensors["numbers.linear.weight"]).transpose(1, 0, 2)
        return np.asarray(tensors["numbers.linear0.bias"] + tensors["numbers.linear0.weight"] * value + piecewise)

    def _first_layer(self, inputs: Scores) -> Scores:
        """Return the output of the first layer before its activation, shape (rows, members, width)."""
        return _layer(self._layers[0], inputs[:, np.newaxis])

    def _scores(self, pre_activation: Scores) -> Scores:
        hidden = np.maximum(pre_activation, 0)
        for layer in self._layers[1:]:
            hidden = np.maximum(_layer(layer, hidden), 0)
        if self._task.outputs == 1:
            logits = np.einsum("rkw,kw->rk", hidden, self._tensors["output.weight"][..., 0])[..., np.newaxis]
        else:
            logits = np.einsum("rkw,kwo->rko", hidden, self._tensors["output.weight"], optimize=True)
        logits += self._tensors["output.bias"]
        if self._task.loss == "multinomial":
            shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
            return np.asarray((shares / shares.sum(axis=-1, keepdims=True)).mean(axis=1))
        if self._task.loss == "log_loss":
            return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)).mean(axis=1))
        return np.asarray((logits * self._architecture["label_scale"] + self._architecture["label_mean"]).mean(axis=1))

    def _log_odds(self, scores: Scores) -> Scores:
        if not self._task.has_probabilities:
            return scores
        clipped = np.clip(scores, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return np.asarray(np.log(clipped / (1 - clipped)))


def _layer(layer: Mapping[str, Scores], inputs: Scores) -> Scores:
    # One product for all rows and members: many small products would not use the whole processor.
    scaled = inputs * layer["r"]
    product = scaled.reshape(-1, scaled.shape[-1]) @ layer["weight"].T
    return np.asarray(product.reshape(*scaled.shape[:-1], -1) * layer["s"] + layer["bias"])
