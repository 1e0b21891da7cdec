"""Settings of the torch trainer, in a module that does not import torch, so declarations are checked quickly."""

from typing import Literal

from pydantic import Field

from ml_platform.data.settings import Settings


class TorchSettings(Settings):
    """TabM (Gorishniy et al. 2025, TabM: advancing tabular deep learning with parameter-efficient ensembling).

    The defaults finish a year of 330,000 rows and 236 features, refit included, within ten minutes on two cores.
    """

    members: int = Field(
        default=8, ge=1, description="Ensemble members (k) that share weights; their mean is the score."
    )
    width: int = Field(default=128, ge=1, description="Units of a hidden layer.")
    blocks: int = Field(default=2, ge=1, description="Number of hidden layers.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of units dropped while fitting.")
    embedding_size: int = Field(default=4, ge=1, description="Length of the embedding of a feature.")
    bins: int = Field(default=16, ge=2, description="Number of bins of the piecewise linear embedding of a number.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(default=3e-4, ge=0, description="Weight decay of AdamW.")
    warmup_share: float = Field(
        default=0.05, ge=0, lt=1, description="Share of steps in which the learning rate rises."
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="Highest norm of the gradient; longer gradients are clipped."
    )
    batch_rows: int = Field(default=1024, ge=1, description="Rows of a batch.")
    max_epochs: int = Field(
        default=3, ge=1, description="Highest number of epochs; the learning rate falls to 0 by the last."
    )
    patience: int = Field(default=1, ge=1, description="Epochs without improvement after which fitting stops.")
    checkpoint_steps: int = Field(default=200, ge=1, description="Steps between checkpoints.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="Device of the fit; auto: cuda, else mps, else cpu."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Precision of the layers; auto: bfloat16 on cuda, float32 elsewhere."
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto", description="Use torch.compile; auto: on cuda, if there are enough steps to save time."
    )
    resident: Literal["auto", "always", "never"] = Field(
        default="auto", description="Keep all rows on the device; auto: if they fit in half of its free memory."
    )
    chunk_rows: int = Field(
        default=262_144, ge=1, description="Rows of a chunk that is sent to the device if rows are not resident."
    )
    processes: int = Field(
        default=0, ge=0, description="Number of processes that share each batch; 0: one per CUDA device, else one."
    )
    threads: int = Field(default=0, ge=0, description="Number of CPU threads; 0: torch's default.")
    deterministic: bool = Field(
        default=True, description="Use deterministic algorithms only, which repeat the same bits."
    )
