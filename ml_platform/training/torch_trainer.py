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
from ml_platform.training.torch_loop import Loop, losses, predict
from ml_platform.training.torch_network import Recipe, load, recipe_for, save
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_state import reproducible
from ml_platform.training.trainer import Matrix, Report, Task, TrainingError, demand_labels

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch
    from torch import nn

FITTED_FILE = "torch.json"
REFUSAL_PREFIX = "refused-"
BACKGROUND_FILE = "background.npz"
BACKGROUND_ROWS = 16
LISTEN_SECONDS = 0.2
"""How long several processes run until their reports are read."""
SHUFFLED_ROWS = 512
"""Rows among which each feature is shuffled to see how much it matters: a pass of the network for each."""


class TorchModel:
    """A fitted network, with a few training rows as the background that explanations are measured against.

    ``sample`` are labelled training rows to measure importance on; a network that was read back knows it already.
    """

    def __init__(
        self,
        network: "nn.Module",
        recipe: Recipe,
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
        self.network, self.recipe, self.task, self.names, self.background = network, recipe, task, names, background
        self.rounds, self.history, self.notes = rounds, history, notes
        self.device = device

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return probabilities (or values), shape (rows,): in float64 on a CPU, as serving does, else in float32."""
        import torch

        exact = TorchSettings(precision="float32")
        return predict(self._exact, self.recipe, features, torch.device(self.device), self.task, exact)

    @cached_property
    def _exact(self) -> "nn.Module":
        return deepcopy(self.network).double() if self.device == "cpu" else self.network

    def save(self, directory: Path) -> None:
        """Write network and background into ``directory``; none of the files is a pickle."""
        save(self.network, self.recipe, directory)
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
        rises = permutation_importance(
            self.predict,
            self._sample.features,
            self._sample.label,
            lambda label, scores: float(losses(scores, label, self.task).mean()),
            repeats=1,
        )
        # Where shuffling helped, the sample is too small to tell: such a feature counts for nothing.
        return shares(self.names, np.maximum(rises, 0.0))


class TorchTrainer:
    """Fits TabM with early stopping on log loss (classification) or squared error (regression)."""

    Settings = TorchSettings
    rounds_follow_rows = False
    # Its build follows the machine, so the manifest names it beside the lock.
    apart_from_lock = ("torch",)

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
        report: Report | None = None,
    ) -> TorchModel:
        """Return the network; see :class:`ml_platform.training.trainer.Trainer`. Raises :class:`TrainingError`."""
        demand_labels(train, self.task)
        recipe = recipe_for(train, self.settings, self.task, self.seed)
        if not recipe.numbers and not recipe.categories:
            raise TrainingError(
                "torch",
                expected="a feature with more than one value",
                found=f"none among {len(train.names)}",
                mend="Materialize the feature views for these months.",
            )
        epochs = self.settings.max_epochs if rounds is None else rounds
        told = {**self.settings.model_dump(), "task": self.task, "seed": self.seed, "epochs": epochs}
        checkpoints = None if checkpoint is None else Checkpoints(checkpoint, fingerprint(told, train, validation))
        device = chosen_device(self.settings)
        processes = self.settings.processes or _cards(device)
        drawn = np.random.default_rng(self.seed).permutation(train.rows)
        background, shuffled = np.sort(drawn[:BACKGROUND_ROWS]), np.sort(drawn[:SHUFFLED_ROWS])
        if processes > 1:
            network, course = self._fit_together(
                processes, recipe, device, train, validation, epochs=epochs, checkpoints=checkpoints, report=report
            )
        else:
            loop = Loop(
                self.settings,
                self.task,
                self.seed,
                recipe,
                device,
                epochs=epochs,
                checkpoints=checkpoints,
                report=report,
            )
            network, course = loop.run(train, validation), vars(loop.course) | {"best": loop.course.best_epoch}
        return TorchModel(
            network.to(device),
            recipe,
            self.task,
            list(train.names),
            train.features[background].copy(),
            rounds=course["best"],
            history=[(epoch, loss) for epoch, loss in course["history"]],
            notes=list(course["notes"]),
            device=str(device),
            sample=replace(train, features=train.features[shuffled], label=train.label[shuffled]),
        )

    @classmethod
    def load(cls, directory: Path) -> TorchModel:
        """Return the network of ``directory`` on the CPU."""
        network, recipe = load(directory)
        held = json.loads((directory / FITTED_FILE).read_text())
        with np.load(directory / BACKGROUND_FILE, allow_pickle=False) as kept:
            background = kept["rows"]
        return TorchModel(
            network,
            recipe,
            held["task"],
            held["names"],
            background,
            rounds=held["rounds"],
            history=[],
            notes=[],
            known_importance=dict(sorted(held["importance"].items(), key=lambda named: -named[1])),
        )

    def _fit_together(
        self,
        processes: int,
        recipe: Recipe,
        device: "torch.device",
        train: Matrix,
        validation: Matrix | None,
        *,
        epochs: int,
        checkpoints: Checkpoints | None,
        report: Report | None,
    ) -> "tuple[nn.Module, dict[str, Any]]":
        from torch import multiprocessing

        with reproducible(self.settings, device), tempfile.TemporaryDirectory(prefix="torch-processes-") as scratch:
            folder = Path(scratch)
            work = (self.settings, self.task, self.seed, recipe, train, validation, epochs, checkpoints)
            told, tell = multiprocessing.get_context("spawn").Pipe(duplex=False)
            arguments = (processes, folder, work, None if report is None else tell)
            # Fresh processes: a fork after CUDA was touched is lost.
            ranks = multiprocessing.spawn(_one_of_several, args=arguments, nprocs=processes, join=False)
            try:
                over = False
                while not over:
                    over = ranks.join(timeout=LISTEN_SECONDS)
                    while report is not None and told.poll():
                        report(*told.recv())
            except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
                raise _refusal_in(folder) or error from error
            finally:
                # A report may end the fit, and so may an interrupt.
                for each in ranks.processes:
                    each.kill()
                    each.join()
                told.close()
                tell.close()
            network, _ = load(folder)
            return network, json.loads((folder / FITTED_FILE).read_text())


def chosen_device(settings: TorchSettings) -> "torch.device":
    """Return the device that ``settings`` ask for. Raises :class:`TrainingError` where this machine lacks it."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if settings.device == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[settings.device]:
        raise TrainingError(
            "torch",
            expected=f"a machine with {settings.device}",
            found="none",
            mend="Set device: auto, or 'requires: gpu' to have it skipped where there is none.",
        )
    return torch.device(settings.device)


def _cards(device: "torch.device") -> int:
    import torch

    return torch.cuda.device_count() if device.type == "cuda" else 1


def _one_of_several(rank: int, processes: int, folder: Path, work: tuple[Any, ...], tell: "Connection | None") -> None:
    import torch
    from torch import distributed

    settings, task, seed, recipe, train, validation, epochs, checkpoints = work
    kind = chosen_device(settings).type
    device = torch.device(kind, rank % torch.cuda.device_count()) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if kind == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    try:
        loop = Loop(
            settings,
            task,
            seed,
            recipe,
            device,
            epochs=epochs,
            checkpoints=checkpoints,
            report=None if tell is None else lambda epoch, loss: tell.send((epoch, loss)),
            rank=rank,
            ranks=processes,
        )
        network = loop.run(train, validation)
        if rank == 0:
            save(network, recipe, folder)
            write_json(folder / FITTED_FILE, vars(loop.course) | {"best": loop.course.best_epoch})
        distributed.barrier()
    except TrainingError as error:
        # Between processes an error is but its text; its parts are read back by the one that asked for the fit.
        parts = {name: getattr(error, name) for name in ("thing", "expected", "found", "mend")}
        write_json(folder / f"{REFUSAL_PREFIX}{rank}.json", parts)
        raise
    finally:
        distributed.destroy_process_group()


def _refusal_in(folder: Path) -> TrainingError | None:
    """Return what a rank refused, None where none did so."""
    held = sorted(folder.glob(f"{REFUSAL_PREFIX}*.json"))
    return TrainingError(**json.loads(held[0].read_text())) if held else None
