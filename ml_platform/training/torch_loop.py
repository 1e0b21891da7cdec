"""Training loop of the torch trainer: steps, epochs, early stopping, checkpoints, and recovery from lack of memory.

Random numbers of a step (order of rows, dropout) depend on seed, epoch, step and rank only. A restart or a repeated
step therefore draws the same numbers, and a resumed fit equals an uninterrupted one.
"""

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ml_platform.tasks.task import Task, rows_of
from ml_platform.training.checkpoint import Checkpoint, Checkpoints
from ml_platform.training.torch_batches import BatchLoader, epoch_order
from ml_platform.training.torch_network import NetworkSpec, build_network, category_counts, fill_unseen_categories
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_state import reproducible_fit
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TENSORS_FILE = "tensors.pt"
PREDICT_ROWS = 8192
MINIMUM_STEPS_TO_COMPILE = 2000


@dataclass
class TrainingProgress:
    """Progress of a fit, stored in a checkpoint beside the tensors."""

    epoch: int = 0
    step: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    part_rows: int = 0

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest validation loss, or without validation the last epoch."""
        return min(self.history, key=lambda each: (each[1], each[0]))[0] if self.history else self.epoch


@dataclass(frozen=True)
class NetworkFit:
    """Declaration of one fit, equal in all of its processes."""

    settings: TorchSettings
    task: Task
    seed: int
    spec: NetworkSpec
    epochs: int
    checkpoints: Checkpoints | None = None


class TrainingLoop:
    """One fit on one device, in one of ``ranks`` processes that share each batch."""

    def __init__(
        self,
        fit: NetworkFit,
        device: "torch.device",
        *,
        report: ReportProgress | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.fit, self.settings, self.spec = fit, fit.settings, fit.spec
        self.device, self.report = device, report
        self.rank, self.ranks = rank, ranks
        self.progress = TrainingProgress(part_rows=fit.settings.batch_rows)

    def run(self, train: Matrix, validation: Matrix | None) -> "nn.Module":
        """Return the network of the best epoch in evaluation mode; ``progress`` has the history of the fit."""
        import torch

        with reproducible_fit(self.settings, self.device):
            torch.manual_seed(self.fit.seed)
            self.network = build_network(self.spec).to(self.device)
            steps = math.ceil(train.rows / self.settings.batch_rows)
            self._prepare(steps)
            loader = BatchLoader(train, self.device, self.settings)
            known = category_counts(train, self.spec)
            while not self._is_finished():
                self._run_epoch(loader, steps)
                fill_unseen_categories(self.network, known)
                if validation is not None:
                    self._evaluate_epoch(validation)
                elif self.report is not None and self.rank == 0:
                    self.report(self.progress.epoch, math.nan)
                self._write_checkpoint()
            if self.best is not None:
                self.network.load_state_dict(self.best)
            return self.network.eval()

    def _prepare(self, steps: int) -> None:
        """Create optimizer and schedule, restore the latest checkpoint, and wrap the network to compile or share it."""
        import torch

        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=self.device.type == "cuda",
        )
        total = steps * max(self.settings.max_epochs, self.fit.epochs)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda at: self._learning_rate_factor(at, total)
        )
        self.best: dict[str, Tensor] | None = None
        checkpoint = self.fit.checkpoints.latest() if self.fit.checkpoints else None
        if checkpoint is not None:
            self._restore_checkpoint(checkpoint)
        self.training_network: Any = self.network
        if self.settings.compile == "always" or (
            self.settings.compile == "auto" and self.device.type == "cuda" and total >= MINIMUM_STEPS_TO_COMPILE
        ):
            self.training_network = torch.compile(self.network)
        if self.ranks > 1:
            data_parallel = torch.nn.parallel.DistributedDataParallel
            # All ranks have the same buffers; a broadcast would wait for a rank that ran out of memory.
            has_new_name = "forward_sync_buffers" in inspect.signature(data_parallel).parameters  # in torch 2.13
            buffer_option: dict[str, Any] = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": False}
            self.training_network = data_parallel(self.training_network, **buffer_option)

    def _learning_rate_factor(self, at: int, total: int) -> float:
        warmup_steps = max(1, round(total * self.settings.warmup_share))
        return (
            (at + 1) / warmup_steps
            if at < warmup_steps
            else 0.5 * (1 + math.cos(math.pi * (at - warmup_steps) / max(1, total - warmup_steps)))
        )

    def _is_finished(self) -> bool:
        progress = self.progress
        out_of_patience = bool(progress.history) and progress.epoch - progress.best_epoch >= self.settings.patience
        return progress.epoch >= self.fit.epochs or out_of_patience

    def _run_epoch(self, loader: BatchLoader, steps: int) -> None:
        progress = self.progress
        self.network.train()
        order = epoch_order(len(loader.label), self.fit.seed, progress.epoch, loader.group)
        for features, label in loader.batches(order, progress.step, (self.rank, self.ranks)):
            self._optimizer_step(features, label)
            progress.step += 1
            if progress.step % self.settings.checkpoint_steps == 0 and progress.step < steps:
                self._write_checkpoint()
        progress.epoch, progress.step = progress.epoch + 1, 0

    def _optimizer_step(self, features: "Tensor", label: "Tensor") -> None:
        """Take one step; if memory runs out, repeat it in parts of half the rows, with the same gradient.

        Ranks share their gradients only after each has computed its own. Otherwise a rank would wait forever, in the
        middle of a pass, for another rank that ran out of memory.
        """
        import torch

        while True:
            out_of_memory: Exception | None = None
            try:
                self._accumulate(features, label)
            except torch.OutOfMemoryError as error:
                # Drop the frames of the traceback, because they keep the memory of the pass allocated.
                out_of_memory = error.with_traceback(None)
            if not self._sum_over_ranks(float(out_of_memory is not None)):
                break
            self._halve_part_rows(len(label), out_of_memory)
        if self.ranks > 1:
            # DistributedDataParallel averages the gradients so far, plus those of this pass, which are 0.
            with autocast(self.settings, self.device):
                zero_loss = self.training_network(features[:2]).float().sum() * 0
            torch.autograd.backward(zero_loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.scheduler.step()

    def _accumulate(self, features: "Tensor", label: "Tensor") -> None:
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        step_seed = np.random.SeedSequence(
            [self.fit.seed, self.progress.epoch, self.progress.step, self.rank]
        ).generate_state(1)
        torch.manual_seed(int(step_seed[0]))
        with nullcontext() if self.ranks == 1 else self.training_network.no_sync():
            for start in range(0, len(label), self.progress.part_rows):
                part = slice(start, start + self.progress.part_rows)
                with autocast(self.settings, self.device):
                    logits = self.training_network(features[part])
                loss = self._loss(logits.float(), label[part]) * (len(label[part]) / len(label))
                torch.autograd.backward(loss)

    def _loss(self, logits: "Tensor", label: "Tensor") -> "Tensor":
        """Return the mean of the members' losses; members learn separately, and predictions average them."""
        from torch.nn import functional

        if self.fit.task.loss == "multinomial":
            classes = label.long().unsqueeze(1).expand(-1, logits.shape[1])
            return functional.cross_entropy(logits.flatten(0, 1), classes.flatten())
        if self.fit.task.loss == "lambdarank":
            return listwise_loss(logits, label[:, 0], label[:, 1])
        standardised = (label - self.spec.label_mean) / self.spec.label_scale
        if self.fit.task.loss == "pinball":
            return pinball_loss(logits, standardised, self.fit.task.quantile_levels)
        target = standardised.unsqueeze(1).expand_as(logits)
        if self.fit.task.loss == "log_loss":
            return functional.binary_cross_entropy_with_logits(logits, target)
        return functional.mse_loss(logits, target)

    def _halve_part_rows(self, rows: int, out_of_memory: Exception | None) -> None:
        import torch

        parts = min(self.progress.part_rows, rows)
        if parts == 1:
            raise TrainingError(
                "torch",
                expected=f"memory for a batch of {parts} rows on {self.device}",
                found="out of memory",
                fix="Lower batch_rows, width or members.",
            ) from out_of_memory
        self.progress.part_rows = parts // 2
        location = "" if self.ranks == 1 else f" in each of {self.ranks} processes"
        self.progress.notes.append(
            f"Out of memory on {self.device.type if location else self.device}: "
            f"batches continue in parts of {parts // 2} rows instead of {parts}{location}."
        )
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _evaluate_epoch(self, validation: Matrix) -> None:
        """Record the validation loss of the epoch, and keep the weights if it is the lowest so far."""
        own_rows = slice(self.rank, None, self.ranks)
        scores = predict(
            self.network, self.spec, validation.features[own_rows], self.device, self.fit.task, self.settings
        )
        context = rows_of(validation.context, own_rows)
        losses = self.fit.task.losses(validation.label[own_rows], scores, context)
        loss = self._sum_over_ranks(losses.sum()) / validation.rows
        if not math.isfinite(loss):
            raise TrainingError(
                f"torch, epoch {self.progress.epoch}",
                expected="a validation loss that is a number",
                found=str(loss),
                fix="Lower the learning rate, or remove extreme values.",
            )
        self.progress.history.append((self.progress.epoch, loss))
        if self.progress.best_epoch == self.progress.epoch:
            self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        if self.report is not None and self.rank == 0:
            self.report(self.progress.epoch, loss)

    def _sum_over_ranks(self, value: float) -> float:
        if self.ranks == 1:
            return float(value)
        import torch

        total = torch.tensor(value, dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        total = total.to(self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def _write_checkpoint(self) -> None:
        if self.fit.checkpoints is None or self.rank:
            return
        import torch

        progress = self.progress
        tensors = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.scheduler.state_dict(),
            "best": self.best or {},
        }
        at = progress.epoch * 1_000_000 + progress.step
        self.fit.checkpoints.write(at, vars(progress), lambda folder: torch.save(tensors, folder / TENSORS_FILE))

    def _restore_checkpoint(self, checkpoint: Checkpoint) -> None:
        import torch

        stored = torch.load(checkpoint.folder / TENSORS_FILE, map_location=self.device, weights_only=True)
        self.network.load_state_dict(stored["network"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scheduler.load_state_dict(stored["schedule"])
        self.best = stored["best"] or None
        self.progress = TrainingProgress(**checkpoint.state)
        self.progress.history = [(epoch, loss) for epoch, loss in self.progress.history]
        self.progress.notes.append(
            f"Resumed from the checkpoint of epoch {self.progress.epoch}, step {self.progress.step}."
        )


def predict(
    network: "nn.Module",
    spec: NetworkSpec,
    features: npt.NDArray[np.float32],
    device: "torch.device",
    task: Task,
    settings: TorchSettings,
) -> npt.NDArray[np.float64]:
    """Return the members' mean probability (or value), shape (rows, outputs), computed in chunks that fit memory."""
    import torch

    network.eval()
    precision = next(network.parameters()).dtype
    rows, scored, logit_parts = PREDICT_ROWS, 0, []
    with torch.inference_mode():
        while scored < len(features):
            try:
                part = torch.from_numpy(np.ascontiguousarray(features[scored : scored + rows])).to(device, precision)
                with autocast(settings, device):
                    logits = network(part)
                logit_parts.append(logits.cpu().double())
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows //= 2
                continue
            scored += rows
    logits = torch.cat(logit_parts) if logit_parts else torch.empty((0, 1), dtype=torch.float64)
    if task.loss == "multinomial":
        scores = torch.softmax(logits, dim=-1)
    elif task.loss == "log_loss":
        scores = torch.sigmoid(logits)
    else:
        scores = logits * spec.label_scale + spec.label_mean
    return scores.mean(dim=1).numpy().reshape(len(features), spec.outputs)


def pinball_loss(quantiles: "Tensor", label: "Tensor", levels: Sequence[float]) -> "Tensor":
    """Return the mean pinball loss of ``quantiles`` (rows, members, levels) for ``label`` (rows,)."""
    level = quantiles.new_tensor(list(levels))
    error = label[:, None, None] - quantiles
    return (level * error).maximum((level - 1) * error).mean()


def listwise_loss(scores: "Tensor", label: "Tensor", group: "Tensor") -> "Tensor":
    """Return the mean over groups and members of the cross-entropy between shares of relevance and of scores.

    ``scores`` has shape (rows, members); ``label`` and ``group`` have (rows,). Groups without a relevance above 0
    are left out. The loss is that of ListNet (Cao and others 2007, Learning to rank: from pairwise approach to listwise
    approach), as in :meth:`.RankingTask.losses`.
    """
    import torch

    group = torch.unique(group, return_inverse=True)[1]
    groups, members = int(group.max()) + 1, scores.shape[1]
    places = group.unsqueeze(1).expand_as(scores)
    largest = scores.new_full((groups, members), -math.inf).scatter_reduce(0, places, scores.detach(), "amax")
    shifted = scores - largest[group]
    total = scores.new_zeros(groups, members).index_add(0, group, shifted.exp())
    relevance = scores.new_zeros(groups).index_add(0, group, label)
    share = label / relevance.clamp_min(1)[group]
    counted = (relevance > 0).sum().clamp_min(1)
    return -(share.unsqueeze(1) * (shifted - total.log()[group])).sum() / (counted * members)


def autocast(settings: TorchSettings, device: "torch.device") -> Any:
    """Return a context in which layers compute in the declared precision."""
    import torch

    on_cuda = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = settings.precision == "bfloat16" or (settings.precision == "auto" and on_cuda)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
