"""TabM by torch as a trainer: on cuda, mps or cpu alike, by one process or by several that share each batch."""

import json
import tempfile
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ml_platform.data.atomic import write_json
from ml_platform.training.checkpoint import Checkpoints, fingerprint
from ml_platform.training.explain import contributions_by_ablation, permutation_importance, shares
from ml_platform.training.torch_loop import TrainingLoop, losses, predict
from ml_platform.training.torch_network import NetworkSpec, load_network, network_spec_for, save_network
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_state import reproducible_fit
from ml_platform.training.trainer import Matrix, ReportProgress, Task, TrainingError, require_labels

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch
    from torch import nn

FITTED_FILE = "torch.json"
ERROR_FILE_PREFIX = "error-"
BACKGROUND_FILE = "background.npz"
BACKGROUND_ROWS = 16
REPORT_POLL_SECONDS = 0.2
"""How long several processes run until their reports are read."""
IMPORTANCE_ROWS = 512
"""Rows among which each feature is shuffled to see how much it matters: a pass of the network for each."""


class TorchModel:
    """A fitted network, with a few training rows as the background that explanations are measured against.

    ``sample`` are labelled training rows to measure importance on; a network that was read back knows it already.
    """

    def __init__(
        self,
        network: "nn.Module",
        spec: NetworkSpec,
        task: Task,
        names: list[str],
        background: npt.NDArray[np.float32],
        *,
        rounds: int,
        history: list[tuple[int, float]],
        notes: list[str],
        device: str = "cpu",
        sample: Matrix | None = None,
        known_importance: dict[str, float] | None = None,
    ) -> None:
        self._sample, self._known_importance = sample, known_importance or {}
        self.network, self.spec, self.task, self.names, self.background = network, spec, task, names, background
        self.rounds, self.history, self.notes = rounds, history, notes
        self.device = device

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return probabilities (or values), shape (rows,): in float64 on a CPU, as serving does, else in float32."""
        import torch

        float32_settings = TorchSettings(precision="float32")
        return predict(
            self._scoring_network, self.spec, features, torch.device(self.device), self.task, float32_settings
        )

    @cached_property
    def _scoring_network(self) -> "nn.Module":
        return deepcopy(self.network).double() if self.device == "cpu" else self.network

    def save(self, directory: Path) -> None:
        """Write network and background into ``directory``; none of the files is a pickle."""
        save_network(self.network, self.spec, directory)
        np.savez(directory / BACKGROUND_FILE, rows=self.background)
        fitted = {"task": self.task, "names": self.names, "rounds": self.rounds, "importance": self.importance()}
        write_json(directory / FITTED_FILE, fitted)

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return how much the score falls, in log-odds or label units, when a feature is that of the background."""
        return contributions_by_ablation(
            self.predict, features, self.background, log_odds=self.task == "classification"
        )

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the loss that shuffling it among the sample rows adds, most first."""
        return self._importance

    @cached_property
    def _importance(self) -> dict[str, float]:
        if self._sample is None:
            return self._known_importance
        loss_increases = permutation_importance(
            self.predict,
            self._sample.features,
            self._sample.label,
            lambda label, scores: float(losses(scores, label, self.task).mean()),
            repeats=1,
        )
        # Where shuffling helped, the sample is too small to tell: such a feature counts for nothing.
        return shares(self.names, np.maximum(loss_increases, 0.0))


class TorchTrainer:
    """Fits TabM with early stopping on log loss (classification) or squared error (regression)."""

    Settings = TorchSettings
    rounds_follow_rows = False
    # Its build follows the machine, so the manifest names it beside the lock.
    unlocked_packages = ("torch",)

    def __init__(self, settings: TorchSettings, *, task: Task, seed: int) -> None:
        self.settings = settings
        self.task = task
        self.seed = seed

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: ReportProgress | None = None,
    ) -> TorchModel:
        """Return the network; see :class:`ml_platform.training.trainer.Trainer`. Raises :class:`TrainingError`."""
        require_labels(train, self.task)
        spec = network_spec_for(train, self.settings, self.task, self.seed)
        if not spec.numbers and not spec.categories:
            raise TrainingError(
                "torch",
                expected="a feature with more than one value",
                found=f"none among {len(train.names)}",
                fix="Materialize the feature views for these months.",
            )
        epochs = self.settings.max_epochs if rounds is None else rounds
        identity = {**self.settings.model_dump(), "task": self.task, "seed": self.seed, "epochs": epochs}
        checkpoints = None if checkpoint is None else Checkpoints(checkpoint, fingerprint(identity, train, validation))
        device = chosen_device(self.settings)
        processes = self.settings.processes or _device_count(device)
        permutation = np.random.default_rng(self.seed).permutation(train.rows)
        background, importance_rows = np.sort(permutation[:BACKGROUND_ROWS]), np.sort(permutation[:IMPORTANCE_ROWS])
        if processes > 1:
            network, progress = self._fit_distributed(
                processes, spec, device, train, validation, epochs=epochs, checkpoints=checkpoints, report=report
            )
        else:
            loop = TrainingLoop(
                self.settings,
                self.task,
                self.seed,
                spec,
                device,
                epochs=epochs,
                checkpoints=checkpoints,
                report=report,
            )
            network, progress = loop.run(train, validation), vars(loop.progress) | {"best": loop.progress.best_epoch}
        return TorchModel(
            network.to(device),
            spec,
            self.task,
            list(train.names),
            train.features[background].copy(),
            rounds=progress["best"],
            history=[(epoch, loss) for epoch, loss in progress["history"]],
            notes=list(progress["notes"]),
            device=str(device),
            sample=replace(train, features=train.features[importance_rows], label=train.label[importance_rows]),
        )

    @classmethod
    def load(cls, directory: Path) -> TorchModel:
        """Return the network of ``directory`` on the CPU."""
        network, spec = load_network(directory)
        stored = json.loads((directory / FITTED_FILE).read_text())
        with np.load(directory / BACKGROUND_FILE, allow_pickle=False) as kept:
            background = kept["rows"]
        return TorchModel(
            network,
            spec,
            stored["task"],
            stored["names"],
            background,
            rounds=stored["rounds"],
            history=[],
            notes=[],
            known_importance=dict(sorted(stored["importance"].items(), key=lambda named: -named[1])),
        )

    def _fit_distributed(
        self,
        processes: int,
        spec: NetworkSpec,
        device: "torch.device",
        train: Matrix,
        validation: Matrix | None,
        *,
        epochs: int,
        checkpoints: Checkpoints | None,
        report: ReportProgress | None,
    ) -> "tuple[nn.Module, dict[str, Any]]":
        from torch import multiprocessing
        from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

        with reproducible_fit(self.settings, device), tempfile.TemporaryDirectory(prefix="torch-processes-") as scratch:
            folder = Path(scratch)
            work = (self.settings, self.task, self.seed, spec, train, validation, epochs, checkpoints)
            receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
            arguments = (processes, folder, work, None if report is None else sender)
            # Fresh processes: a fork after CUDA was touched is lost.
            ranks = spawn(_run_rank, args=arguments, nprocs=processes, join=False)
            try:
                finished = False
                while not finished:
                    finished = ranks.join(timeout=REPORT_POLL_SECONDS)
                    while report is not None and receiver.poll():
                        report(*receiver.recv())
            except (ProcessRaisedException, ProcessExitedException) as error:
                raise _read_rank_error(folder) or error from error
            finally:
                # A report may end the fit, and so may an interrupt.
                for each in ranks.processes:
                    each.kill()
                    each.join()
                receiver.close()
                sender.close()
            network, _ = load_network(folder)
            return network, json.loads((folder / FITTED_FILE).read_text())


def chosen_device(settings: TorchSettings) -> "torch.device":
    """Return the device that ``settings`` ask for. Raises :class:`TrainingError` where this machine lacks it."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if settings.device == "auto":
        return torch.device(next(name for name, usable in available.items() if usable))
    if not available[settings.device]:
        raise TrainingError(
            "torch",
            expected=f"a machine with {settings.device}",
            found="none",
            fix="Set device: auto, or 'requires: gpu' to have it skipped where there is none.",
        )
    return torch.device(settings.device)


def _device_count(device: "torch.device") -> int:
    import torch

    return torch.cuda.device_count() if device.type == "cuda" else 1


def _run_rank(rank: int, processes: int, folder: Path, work: tuple[Any, ...], sender: "Connection | None") -> None:
    import torch
    from torch import distributed

    settings, task, seed, spec, train, validation, epochs, checkpoints = work
    device_type = chosen_device(settings).type
    device = (
        torch.device(device_type, rank % torch.cuda.device_count())
        if device_type == "cuda"
        else torch.device(device_type)
    )
    if device_type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device_type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    try:
        loop = TrainingLoop(
            settings,
            task,
            seed,
            spec,
            device,
            epochs=epochs,
            checkpoints=checkpoints,
            report=None if sender is None else lambda epoch, loss: sender.send((epoch, loss)),
            rank=rank,
            ranks=processes,
        )
        network = loop.run(train, validation)
        if rank == 0:
            save_network(network, spec, folder)
            write_json(folder / FITTED_FILE, vars(loop.progress) | {"best": loop.progress.best_epoch})
        distributed.barrier()
    except TrainingError as error:
        # Between processes an error is but its text; its parts are read back by the one that asked for the fit.
        fields = {name: getattr(error, name) for name in ("subject", "expected", "found", "fix")}
        write_json(folder / f"{ERROR_FILE_PREFIX}{rank}.json", fields)
        raise
    finally:
        distributed.destroy_process_group()


def _read_rank_error(folder: Path) -> TrainingError | None:
    """Return what a rank refused, None where none did so."""
    files = sorted(folder.glob(f"{ERROR_FILE_PREFIX}*.json"))
    return TrainingError(**json.loads(files[0].read_text())) if files else None
