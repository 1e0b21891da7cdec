"""Network of the torch trainer: from the encoder's matrix, with missing values and codes, to one logit per member.

The network includes all parameters for reading the matrix (mean, scale, bins, columns of categories), so a saved
network is complete. `network.json` has the specification and `network.npz` the tensors; neither is a pickle.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.atomic import write_bytes, write_text
from ml_platform.data.settings import Settings
from ml_platform.tasks.task import Task
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_state import preserved_generator
from ml_platform.training.trainer import Matrix

if TYPE_CHECKING:
    from torch import Tensor, nn

DESCRIPTION_FILE = "network.json"
TENSORS_FILE = "network.npz"
SAMPLE_ROWS = 50_000
MINIMUM_SCALE = 1e-6
MINIMUM_BIN_WIDTH = 1e-4
"""Smallest width of a bin, in standard deviations."""
CORE_QUANTILES = ((0.25, 0.75), (0.05, 0.95), (0.01, 0.99))
"""Quantiles that bound the core of a number. The first pair with different values is used."""
OUTLIER_CORE_WIDTHS = 10.0
"""Distance from the core, in widths of the core, at which values are clipped."""


class NetworkSpec(Settings):
    """Specification of a network; together with the tensors it is the complete network."""

    numbers: list[int] = Field(description="Columns of the numerical features that have values.")
    categories: dict[int, int] = Field(description="Columns of the categorical features, with their numbers of codes.")
    mean: list[float] = Field(description="Mean of each number.")
    scale: list[float] = Field(description="Standard deviation of each number.")
    edges: list[list[float]] = Field(description="Standardised edges of the bins of each number.")
    bounded: bool = Field(
        default=False,
        description="Whether values beyond the outermost edges are clipped to them; false in older networks.",
    )
    members: int = Field(description="Number of ensemble members that share weights.")
    width: int = Field(description="Units of a hidden layer.")
    blocks: int = Field(description="Number of hidden layers.")
    dropout: float = Field(description="Share of units dropped while fitting.")
    embedding_size: int = Field(description="Length of the embedding of a feature.")
    outputs: int = Field(default=1, ge=1, description="Number of outputs of each member, for example of classes.")
    label_mean: float = Field(default=0.0, description="Regression: mean of the label.")
    label_scale: float = Field(default=1.0, description="Regression: standard deviation of the label.")


def network_spec_for(train: Matrix, settings: TorchSettings, task: Task, seed: int) -> NetworkSpec:
    """Return the specification for ``train``, without numbers that are null or nearly constant.

    Mean, scale and bins (quantiles with ties merged) come from at most 50,000 rows drawn by ``seed``. Values more than
    ten interquartile ranges beyond the quartiles are clipped. A few wrong values, or codes for "none", then do not
    determine the scale.
    """
    rng = np.random.default_rng(seed)
    sample = train.features
    if train.rows > SAMPLE_ROWS:
        sample = sample[np.sort(rng.choice(train.rows, SAMPLE_ROWS, replace=False))]
    numbers, mean, scale, edges = [], [], [], []
    for column in range(sample.shape[1]):
        values = sample[:, column].astype(np.float64)
        values = values[np.isfinite(values)]
        if column in train.categories or values.size == 0 or values.min() == values.max():
            continue
        values = np.clip(values, *_clipping_bounds(values))
        center, spread = float(values.mean()), max(float(values.std()), MINIMUM_SCALE)
        bounds = _distinct_edges(np.quantile((values - center) / spread, np.linspace(0, 1, settings.bins + 1)))
        if len(bounds) < 2:
            continue
        numbers.append(column)
        mean.append(center)
        scale.append(spread)
        edges.append(bounds)
    has_no_unit = task.has_probabilities or task.loss == "lambdarank"
    return NetworkSpec(
        numbers=numbers,
        categories={column: count for column, count in train.categories.items() if count > 0},
        mean=mean,
        scale=scale,
        edges=edges,
        bounded=True,
        members=settings.members,
        width=settings.width,
        blocks=settings.blocks,
        dropout=settings.dropout,
        embedding_size=settings.embedding_size,
        outputs=task.outputs,
        label_mean=0.0 if has_no_unit else float(train.label.mean()),
        label_scale=1.0 if has_no_unit else max(float(train.label.std()), MINIMUM_SCALE),
    )


def _clipping_bounds(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the lowest and highest value that is not clipped: the range itself, if the core is a single value."""
    for below, above in CORE_QUANTILES:
        low, high = np.quantile(values, [below, above])
        if high > low:
            return float(low - OUTLIER_CORE_WIDTHS * (high - low)), float(high + OUTLIER_CORE_WIDTHS * (high - low))
    return float(values.min()), float(values.max())


def _distinct_edges(edges: npt.NDArray[np.float64]) -> list[float]:
    """Return the ascending ``edges`` that have a minimum distance, because a bin of width 0 would divide by 0."""
    kept: list[float] = []
    for edge in edges.astype(np.float32).astype(np.float64).tolist():
        if not kept or edge - kept[-1] > MINIMUM_BIN_WIDTH:
            kept.append(edge)
    return kept


def build_network(spec: NetworkSpec) -> "nn.Module":
    """Return a new network from (rows, features) float32 to logits (rows, members), or (rows, members, outputs).

    A missing number has its own embedding.
    """
    import torch
    from rtdl_num_embeddings import PiecewiseLinearEmbeddings
    from tabm import EnsembleView, LinearEnsemble, make_tabm_backbone
    from torch import nn

    size = spec.embedding_size
    counts = list(spec.categories.values())
    fields = len(spec.numbers) + len(spec.categories)

    class Network(nn.Module):
        places: torch.Tensor
        codes: torch.Tensor
        mean: torch.Tensor
        scale: torch.Tensor
        lowest: torch.Tensor
        highest: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            # Buffers move with the weights to the device and into the file.
            self.register_buffer("places", torch.tensor(spec.numbers, dtype=torch.long))
            self.register_buffer("codes", torch.tensor(list(spec.categories), dtype=torch.long))
            self.register_buffer("mean", torch.tensor(spec.mean))
            self.register_buffer("scale", torch.tensor(spec.scale))
            # Clip to the outermost edges, because the network learned nothing beyond them.
            self.register_buffer("lowest", torch.tensor([each[0] for each in spec.edges]), persistent=False)
            self.register_buffer("highest", torch.tensor([each[-1] for each in spec.edges]), persistent=False)
            if spec.numbers:
                edges = [torch.tensor(each) for each in spec.edges]
                self.numbers = PiecewiseLinearEmbeddings(edges, size, activation=False, version="B")
                self.gaps = nn.Parameter(torch.zeros(len(spec.numbers), size))
            # The last row of each table is for missing values and unseen categories.
            self.categories = nn.ModuleList(nn.Embedding(count + 1, size) for count in counts)
            self.spread = EnsembleView(k=spec.members)
            self.backbone = make_tabm_backbone(
                d_in=fields * size,
                n_blocks=spec.blocks,
                d_block=spec.width,
                dropout=spec.dropout,
                k=spec.members,
                arch_type="tabm",
                start_scaling_init="normal",
                start_scaling_init_chunks=[size] * fields,
            )
            self.output = LinearEnsemble(spec.width, spec.outputs, k=spec.members)

        def forward(self, features: "Tensor") -> "Tensor":
            parts = []
            if spec.numbers:
                values = (features[:, self.places] - self.mean) / self.scale
                if spec.bounded:
                    values = values.clamp(self.lowest, self.highest)
                absent = values.isnan()
                embedded = self.numbers(torch.where(absent, torch.zeros_like(values), values))
                parts.append(torch.where(absent.unsqueeze(-1), self.gaps, embedded).flatten(1))
            if spec.categories:
                codes = features[:, self.codes]
                for at, (table, count) in enumerate(zip(self.categories, counts, strict=True)):
                    parts.append(table(codes[:, at].nan_to_num(nan=count).long()))
            logits: Tensor = self.output(self.backbone(self.spread(torch.cat(parts, 1))))
            return logits.squeeze(-1) if spec.outputs == 1 else logits

    return Network()


def category_counts(train: Matrix, spec: NetworkSpec) -> list[npt.NDArray[np.int64]]:
    """Return the number of rows of ``train`` per code, for each categorical feature, with missing values last."""
    return [
        np.bincount(np.nan_to_num(train.features[:, column], nan=count).astype(np.int64), minlength=count + 1)
        for column, count in spec.categories.items()
    ]


def fill_unseen_categories(network: "nn.Module", codes: list[npt.NDArray[np.int64]]) -> None:
    """Set the embedding of codes without rows to the mean of the others, weighted by their rows.

    A code that fitting never sees would otherwise keep its random initial embedding.
    """
    import torch

    tables: Any = getattr(network, "categories", [])
    with torch.no_grad():
        for table, counts in zip(tables, codes, strict=True):
            share = torch.from_numpy(counts / counts.sum()).to(table.weight)
            unseen = torch.from_numpy(counts == 0).to(share.device).unsqueeze(1)
            table.weight.copy_(torch.where(unseen, share @ table.weight, table.weight))


def save_network(network: "nn.Module", spec: NetworkSpec, directory: Path) -> None:
    """Write ``network`` and its specification into ``directory``."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()})
    write_bytes(directory / TENSORS_FILE, buffer.getvalue())
    write_text(directory / DESCRIPTION_FILE, spec.model_dump_json())


def load_network(directory: Path) -> "tuple[nn.Module, NetworkSpec]":
    """Return the network that :func:`save_network` wrote, in evaluation mode on the CPU, and its specification."""
    import torch

    spec = NetworkSpec.model_validate_json((directory / DESCRIPTION_FILE).read_text())
    with preserved_generator():
        network = build_network(spec)
    with np.load(directory / TENSORS_FILE, allow_pickle=False) as stored:
        network.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    return network.eval(), spec
