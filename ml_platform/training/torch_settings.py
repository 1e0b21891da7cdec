"""Settings of the torch trainer, apart so that a declaration is checked without importing torch."""

from typing import Literal

from pydantic import Field

from ml_platform.data.settings import Settings


class TorchSettings(Settings):
    """TabM (Gorishniy et al. 2025, TabM: advancing tabular deep learning with parameter-efficient ensembling).

    The defaults finish a year of 330,000 rows and 236 features, refit included, within ten minutes on two cores.
    """

    members: int = Field(default=8, ge=1, description="Networks that share their weights (k); their mean is the score.")
    width: int = Field(default=128, ge=1, description="Units of a hidden layer.")
    blocks: int = Field(default=2, ge=1, description="Hidden layers.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of units silenced while fitting.")
    embedding_size: int = Field(default=4, ge=1, description="Numbers into which a feature is turned.")
    bins: int = Field(default=16, ge=2, description="Bins of the piecewise linear embedding of a number.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(default=3e-4, ge=0, description="Weight decay of AdamW.")
    warmup_share: float = Field(default=0.05, ge=0, lt=1, description="Share of steps in which the rate rises.")
    clip_norm: float = Field(default=1.0, gt=0, description="Length to which a longer gradient is cut.")
    batch_rows: int = Field(default=1024, ge=1, description="Rows of a step.")
    max_epochs: int = Field(default=3, ge=1, description="Passes over the rows at most; the rate falls to 0 by then.")
    patience: int = Field(default=1, ge=1, description="Epochs without improvement after which fitting stops.")
    checkpoint_steps: int = Field(default=200, ge=1, description="Steps between checkpoints.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="Where it runs; auto: cuda, else mps, else cpu."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Arithmetic of the layers; auto: bfloat16 on cuda, float32 elsewhere."
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto", description="torch.compile; auto: on cuda, where the steps are many enough to repay it."
    )
    resident: Literal["auto", "always", "never"] = Field(
        default="auto", description="Rows kept on the device; auto: where they take at most half of its free memory."
    )
    chunk_rows: int = Field(default=262_144, ge=1, description="Rows sent at once where they are not resident.")
    processes: int = Field(
        default=0, ge=0, description="Processes that share each batch; 0: one for each CUDA device, else one."
    )
    threads: int = Field(default=0, ge=0, description="CPU threads; 0: as torch chooses.")
    deterministic: bool = Field(default=True, description="Only algorithms that give the same bits every time.")
