"""The loop of the torch trainer: steps, epochs, early stopping, checkpoints, and what to do when memory runs out.

What is random in a step (order of rows, dropout) is drawn from seed, epoch, step and rank alone. So neither a restart
nor a step that is tried again changes what is drawn, and a resumed fit equals the one that was never killed.
"""

import inspect
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ml_platform.training.checkpoint import Checkpoint, Checkpoints
from ml_platform.training.torch_feed import Feed, order_of_epoch
from ml_platform.training.torch_network import Recipe, build, codes_in, fill_unseen
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_state import reproducible
from ml_platform.training.trainer import Matrix, Report, Task, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TENSORS_FILE = "tensors.pt"
PREDICT_ROWS = 8192
COMPILE_FROM_STEPS = 2000


@dataclass
class Course:
    """Where a fit stands: what a checkpoint holds besides tensors."""

    epoch: int = 0
    step: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    part_rows: int = 0

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest validation loss; the last one where there is no validation."""
        return min(self.history, key=lambda each: (each[1], each[0]))[0] if self.history else self.epoch


class Loop:
    """One fit on one device, as one of ``ranks`` processes that share each batch."""

    def __init__(
        self,
        settings: TorchSettings,
        task: Task,
        seed: int,
        recipe: Recipe,
        device: "torch.device",
        *,
        epochs: int,
        checkpoints: Checkpoints | None = None,
        report: Report | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.settings, self.task, self.seed, self.recipe = settings, task, seed, recipe
        self.device, self.epochs, self.checkpoints, self.report = device, epochs, checkpoints, report
        self.rank, self.ranks = rank, ranks
        self.course = Course(part_rows=settings.batch_rows)

    def run(self, train: Matrix, validation: Matrix | None) -> "nn.Module":
        """Return the network of the best epoch, in evaluation mode; ``course`` then says how it went."""
        import torch

        with reproducible(self.settings, self.device):
            torch.manual_seed(self.seed)
            self.network = build(self.recipe).to(self.device)
            steps = math.ceil(train.rows / self.settings.batch_rows)
            self._prepare(steps)
            feed = Feed(train, self.device, self.settings)
            known = codes_in(train, self.recipe)
            while not self._is_over():
                self._epoch(feed, steps)
                fill_unseen(self.network, known)
                if validation is not None:
                    self._look(validation)
                elif self.report is not None and self.rank == 0:
                    self.report(self.course.epoch, math.nan)
                self._keep()
            if self.best is not None:
                self.network.load_state_dict(self.best)
            return self.network.eval()

    def _prepare(self, steps: int) -> None:
        """Make optimizer and schedule, take up the newest checkpoint, wrap the network for speed and company."""
        import torch

        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=self.device.type == "cuda",
        )
        total = steps * max(self.settings.max_epochs, self.epochs)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda at: self._rate(at, total))
        self.best: dict[str, Tensor] | None = None
        before = self.checkpoints.latest() if self.checkpoints else None
        if before is not None:
            self._take_up(before)
        self.stepped: Any = self.network
        if self.settings.compile == "always" or (
            self.settings.compile == "auto" and self.device.type == "cuda" and total >= COMPILE_FROM_STEPS
        ):
            self.stepped = torch.compile(self.network)
        if self.ranks > 1:
            together = torch.nn.parallel.DistributedDataParallel
            # The buffers are the same everywhere; sending them would wait for a rank that ran out of memory.
            renamed = "forward_sync_buffers" in inspect.signature(together).parameters  # in torch 2.13
            unsent: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
            self.stepped = together(self.stepped, **unsent)

    def _rate(self, at: int, total: int) -> float:
        warm = max(1, round(total * self.settings.warmup_share))
        return (at + 1) / warm if at < warm else 0.5 * (1 + math.cos(math.pi * (at - warm) / max(1, total - warm)))

    def _is_over(self) -> bool:
        course = self.course
        hopeless = bool(course.history) and course.epoch - course.best_epoch >= self.settings.patience
        return course.epoch >= self.epochs or hopeless

    def _epoch(self, feed: Feed, steps: int) -> None:
        course = self.course
        self.network.train()
        order = order_of_epoch(len(feed.label), self.seed, course.epoch)
        for features, label in feed.batches(order, course.step, (self.rank, self.ranks)):
            self._step(features, label)
            course.step += 1
            if course.step % self.settings.checkpoint_steps == 0 and course.step < steps:
                self._keep()
        course.epoch, course.step = course.epoch + 1, 0

    def _step(self, features: "Tensor", label: "Tensor") -> None:
        """Take one step; where memory runs out, take it again in parts of half the rows, with the same gradient.

        Of several processes, none shares its gradient before each has its own: one that waited for another in the
        middle of a pass, while that one had run out of memory, would wait for ever.
        """
        import torch

        while True:
            short: Exception | None = None
            try:
                self._accumulate(features, label)
            except torch.OutOfMemoryError as error:
                # Without its frames, which hold what the pass had allocated.
                short = error.with_traceback(None)
            if not self._sum_over_ranks(float(short is not None)):
                break
            self._halve(len(label), short)
        if self.ranks > 1:
            # DistributedDataParallel means the gradients gathered so far with those of this pass, which are 0.
            with autocast(self.settings, self.device):
                nothing = self.stepped(features[:2]).float().sum() * 0
            nothing.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.schedule.step()

    def _accumulate(self, features: "Tensor", label: "Tensor") -> None:
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        drawn = np.random.SeedSequence([self.seed, self.course.epoch, self.course.step, self.rank]).generate_state(1)
        torch.manual_seed(int(drawn[0]))
        with nullcontext() if self.ranks == 1 else self.stepped.no_sync():
            for start in range(0, len(label), self.course.part_rows):
                part = slice(start, start + self.course.part_rows)
                with autocast(self.settings, self.device):
                    logits = self.stepped(features[part])
                loss = self._loss(logits.float(), label[part]) * (len(label[part]) / len(label))
                loss.backward()

    def _loss(self, logits: "Tensor", label: "Tensor") -> "Tensor":
        """Return the mean loss of the members, each for itself: they learn apart and are averaged when asked."""
        from torch.nn import functional

        wanted = ((label - self.recipe.label_mean) / self.recipe.label_scale).unsqueeze(1).expand_as(logits)
        if self.task == "classification":
            return functional.binary_cross_entropy_with_logits(logits, wanted)
        return functional.mse_loss(logits, wanted)

    def _halve(self, rows: int, short: Exception | None) -> None:
        import torch

        parts = min(self.course.part_rows, rows)
        if parts == 1:
            raise TrainingError(
                "torch",
                expected=f"memory for a batch of {parts} rows on {self.device}",
                found="out of memory",
                mend="Lower batch_rows, width or members.",
            ) from short
        self.course.part_rows = parts // 2
        each = "" if self.ranks == 1 else f" in each of {self.ranks} processes"
        self.course.notes.append(
            f"Out of memory on {self.device.type if each else self.device}: "
            f"batches go on in parts of {parts // 2} rows instead of {parts}{each}."
        )
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _look(self, validation: Matrix) -> None:
        """Note the validation loss of the epoch, and keep the weights if it is the lowest so far."""
        own = slice(self.rank, None, self.ranks)
        scores = predict(self.network, self.recipe, validation.features[own], self.device, self.task, self.settings)
        loss = self._sum_over_ranks(losses(scores, validation.label[own], self.task).sum()) / validation.rows
        if not math.isfinite(loss):
            raise TrainingError(
                f"torch, epoch {self.course.epoch}",
                expected="a validation loss that is a number",
                found=str(loss),
                mend="Lower the learning rate, or look for extreme values.",
            )
        self.course.history.append((self.course.epoch, loss))
        if self.course.best_epoch == self.course.epoch:
            self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        if self.report is not None and self.rank == 0:
            self.report(self.course.epoch, loss)

    def _sum_over_ranks(self, value: float) -> float:
        if self.ranks == 1:
            return float(value)
        import torch

        total = torch.tensor(value, dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        total = total.to(self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def _keep(self) -> None:
        if self.checkpoints is None or self.rank:
            return
        import torch

        course = self.course
        tensors = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best or {},
        }
        at = course.epoch * 1_000_000 + course.step
        self.checkpoints.write(at, vars(course), lambda folder: torch.save(tensors, folder / TENSORS_FILE))

    def _take_up(self, before: Checkpoint) -> None:
        import torch

        held = torch.load(before.folder / TENSORS_FILE, map_location=self.device, weights_only=True)
        self.network.load_state_dict(held["network"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.schedule.load_state_dict(held["schedule"])
        self.best = held["best"] or None
        self.course = Course(**before.state)
        self.course.history = [(epoch, loss) for epoch, loss in self.course.history]
        self.course.notes.append(f"Went on from the checkpoint of epoch {self.course.epoch}, step {self.course.step}.")


def predict(
    network: "nn.Module",
    recipe: Recipe,
    features: npt.NDArray[np.float32],
    device: "torch.device",
    task: Task,
    settings: TorchSettings,
) -> npt.NDArray[np.float64]:
    """Return the mean over the members of their probabilities (or values), shape (rows,), in chunks that fit."""
    import torch

    network.eval()
    precision = next(network.parameters()).dtype
    rows, done, found = PREDICT_ROWS, 0, []
    with torch.inference_mode():
        while done < len(features):
            try:
                part = torch.from_numpy(np.ascontiguousarray(features[done : done + rows])).to(device, precision)
                with autocast(settings, device):
                    logits = network(part)
                found.append(logits.cpu().double())
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows //= 2
                continue
            done += rows
    logits = torch.cat(found) if found else torch.empty((0, 1), dtype=torch.float64)
    scores = torch.sigmoid(logits) if task == "classification" else logits * recipe.label_scale + recipe.label_mean
    return scores.mean(dim=1).numpy()


def losses(scores: npt.NDArray[np.float64], label: npt.NDArray[np.float64], task: Task) -> npt.NDArray[np.float64]:
    """Return the log loss (or squared error) of each row; that of a label that is no number is none either."""
    if task == "regression":
        return np.asarray(np.square(scores - label))
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    return np.where(np.isnan(label), np.nan, -np.log(np.where(label > 0, clipped, 1 - clipped)))


def autocast(settings: TorchSettings, device: "torch.device") -> Any:
    """Return the context in which layers compute in the declared precision."""
    import torch

    on_cuda = device.type == "cuda" and torch.cuda.is_bf16_supported()
    wanted = settings.precision == "bfloat16" or (settings.precision == "auto" and on_cuda)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
