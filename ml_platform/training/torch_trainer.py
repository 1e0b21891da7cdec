"""Trainer for TabM by torch, on cuda, mps or cpu, in one process or in several that share each batch."""

import json
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ml_platform.data.atomic import write_json
from ml_platform.data.scratch import scratch_folder
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.ranking import GROUP
from ml_platform.tasks.task import Task, rows_of
from ml_platform.training.checkpoint import Checkpoints, fingerprint
from ml_platform.training.explain import contributions_by_ablation, permutation_importance, shares
from ml_platform.training.torch_batches import epoch_order
from ml_platform.training.torch_loop import NetworkFit, TrainingLoop, predict
from ml_platform.training.torch_network import NetworkSpec, load_network, network_spec_for, save_network
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_state import reproducible_fit
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError, require_labels

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch
    from torch import nn

FITTED_FILE = "torch.json"
ERROR_FILE_PREFIX = "error-"
BACKGROUND_FILE = "background.npz"
BACKGROUND_ROWS = 16
REPORT_POLL_SECONDS = 0.2
"""Interval at which the reports of several processes are read."""
IMPORTANCE_ROWS = 512
"""Rows on which the permutation importance of each feature is measured."""


class TorchModel:
    """A fitted network, with a few training rows as background for explanations.

    ``sample`` has labelled training rows on which importance is measured. A stored network has ``known_importance``.
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
        """Return the outputs of the task, shape (rows, outputs), in float64 on a CPU as in serving, else in float32."""
        import torch

        float32_settings = TorchSettings(precision="float32")
        return predict(
            self._scoring_network, self.spec, features, torch.device(self.device), self.task, float32_settings
        )

    @cached_property
    def _scoring_network(self) -> "nn.Module":
        return deepcopy(self.network).double() if self.device == "cpu" else self.network

    def save(self, directory: Path) -> None:
        """Write network and background into ``directory``, without pickles."""
        save_network(self.network, self.spec, directory)
        np.savez(directory / BACKGROUND_FILE, rows=self.background)
        fitted = {
            "task": self.task.model_dump(),
            "names": self.names,
            "rounds": self.rounds,
            "importance": self.importance(),
        }
        write_json(directory / FITTED_FILE, fitted)

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return how much the score falls, in log-odds or label units, when a feature comes from the background.

        The shape is (rows, features).
        """
        return contributions_by_ablation(self.predict, features, self.background, task=self.task)

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the permutation importance on the sample rows, largest first."""
        return self._importance

    @cached_property
    def _importance(self) -> dict[str, float]:
        if self._sample is None:
            return self._known_importance
        context = self._sample.context
        loss_increases = permutation_importance(
            self.predict,
            self._sample.features,
            self._sample.label,
            lambda label, outputs: float(self.task.losses(label, outputs, context).mean()),
            repeats=1,
        )
        # A negative importance is noise of a small sample, so it counts as 0.
        return shares(self.names, np.maximum(loss_increases, 0.0))


class TorchTrainer:
    """Fit TabM with early stopping on the loss of the task."""

    Settings = TorchSettings
    losses = ("log_loss", "multinomial", "squared_error", "pinball", "lambdarank")
    rounds_follow_rows = False
    # The build of torch depends on the machine, so the manifest names it beside the lock.
    unlocked_packages = ("torch",)

    def __init__(self, settings: TorchSettings, *, task: Task | str, seed: int) -> None:
        self.settings = settings
        self.task = as_task(task)
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
                fix="Materialize the feature views for these partitions.",
            )
        epochs = self.settings.max_epochs if rounds is None else rounds
        identity = {**self.settings.model_dump(), "task": self.task.model_dump(), "seed": self.seed, "epochs": epochs}
        checkpoints = None if checkpoint is None else Checkpoints(checkpoint, fingerprint(identity, train, validation))
        fit = NetworkFit(self.settings, self.task, self.seed, spec, epochs, checkpoints)
        device = chosen_device(self.settings)
        processes = self._process_count(device)
        permutation = np.random.default_rng(self.seed).permutation(train.rows)
        if GROUP in train.context:  # the importance needs whole groups
            groups = np.unique(train.context[GROUP], return_inverse=True)[1]
            permutation = epoch_order(train.rows, self.seed, 0, groups)
        background, importance_rows = np.sort(permutation[:BACKGROUND_ROWS]), np.sort(permutation[:IMPORTANCE_ROWS])
        if processes > 1:
            network, progress = _fit_distributed(fit, processes, device, train, validation, report)
        else:
            loop = TrainingLoop(fit, device, report=report)
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
            sample=replace(
                train,
                features=train.features[importance_rows],
                label=train.label[importance_rows],
                context=rows_of(train.context, importance_rows),
            ),
        )

    def _process_count(self, device: "torch.device") -> int:
        if self.task.loss != "lambdarank":
            return self.settings.processes or _device_count(device)
        if (self.settings.processes or 1) > 1:
            raise TrainingError(
                "torch, processes",
                expected="1 for a ranking, because several processes would divide each group",
                found=str(self.settings.processes),
                fix="Remove processes.",
            )
        return 1

    @classmethod
    def load(cls, directory: Path) -> TorchModel:
        """Return the network in ``directory``, on the CPU."""
        network, spec = load_network(directory)
        stored = json.loads((directory / FITTED_FILE).read_text())
        with np.load(directory / BACKGROUND_FILE, allow_pickle=False) as kept:
            background = kept["rows"]
        return TorchModel(
            network,
            spec,
            as_task(stored["task"]),
            stored["names"],
            background,
            rounds=stored["rounds"],
            history=[],
            notes=[],
            known_importance=dict(sorted(stored["importance"].items(), key=lambda named: -named[1])),
        )


def chosen_device(settings: TorchSettings) -> "torch.device":
    """Return the declared device. Raises :class:`TrainingError` if this machine lacks it."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if settings.device == "auto":
        return torch.device(next(name for name, usable in available.items() if usable))
    if not available[settings.device]:
        raise TrainingError(
            "torch",
            expected=f"a machine with {settings.device}",
            found="none",
            fix="Set device: auto, or set requires: gpu to skip the trainer on such machines.",
        )
    return torch.device(settings.device)


def _device_count(device: "torch.device") -> int:
    import torch

    return torch.cuda.device_count() if device.type == "cuda" else 1


def _fit_distributed(
    fit: NetworkFit,
    processes: int,
    device: "torch.device",
    train: Matrix,
    validation: Matrix | None,
    report: ReportProgress | None,
) -> "tuple[nn.Module, dict[str, Any]]":
    from torch import multiprocessing
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

    with reproducible_fit(fit.settings, device), scratch_folder("torch-processes") as folder:
        receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
        arguments = (processes, folder, fit, train, validation, None if report is None else sender)
        # Spawn new processes, because CUDA does not work after a fork.
        ranks = spawn(_run_rank, args=arguments, nprocs=processes, join=False)  # type: ignore[no-untyped-call] # of torch
        try:
            finished = False
            while not finished:
                finished = ranks.join(timeout=REPORT_POLL_SECONDS)
                while report is not None and receiver.poll():
                    report(*receiver.recv())
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _read_rank_error(folder) or error from error
        finally:
            # A report or an interrupt may end the fit.
            for each in ranks.processes:
                each.kill()
                each.join()
            receiver.close()
            sender.close()
        network, _ = load_network(folder)
        return network, json.loads((folder / FITTED_FILE).read_text())


def _run_rank(
    rank: int,
    processes: int,
    folder: Path,
    fit: NetworkFit,
    train: Matrix,
    validation: Matrix | None,
    sender: "Connection | None",
) -> None:
    import torch
    from torch import distributed

    device_type = chosen_device(fit.settings).type
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
        report = None if sender is None else lambda epoch, loss: sender.send((epoch, loss))
        loop = TrainingLoop(fit, device, report=report, rank=rank, ranks=processes)
        network = loop.run(train, validation)
        if rank == 0:
            save_network(network, fit.spec, folder)
            write_json(folder / FITTED_FILE, vars(loop.progress) | {"best": loop.progress.best_epoch})
        distributed.barrier()
    except TrainingError as error:
        # Only the text of an error passes between processes, so store its parts for the parent process.
        fields = {name: getattr(error, name) for name in ("subject", "expected", "found", "fix")}
        write_json(folder / f"{ERROR_FILE_PREFIX}{rank}.json", fields)
        raise
    finally:
        distributed.destroy_process_group()


def _read_rank_error(folder: Path) -> TrainingError | None:
    """Return the first training error of a rank, or None."""
    files = sorted(folder.glob(f"{ERROR_FILE_PREFIX}*.json"))
    return TrainingError(**json.loads(files[0].read_text())) if files else None
