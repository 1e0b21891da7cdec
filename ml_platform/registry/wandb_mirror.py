"""An optional second log of every run in Weights & Biases; it is off by default, and offline when enabled.

Nothing reads it back. When it fails, the failure is logged once and the run continues without it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError
from ml_platform.registry.outbox import Operation

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

Mirror = Callable[[Operation], None]

_log = logging.getLogger(__name__)


class MirrorError(PlatformError):
    """Raised when the second log is enabled and the package wandb is not installed."""


class WandbSettings(Settings):
    """Whether and how runs are also logged to Weights & Biases."""

    enabled: bool = Field(default=False, description="Log every run a second time.")
    project: str = Field(default="ml-platform", description="Project in Weights & Biases.")
    mode: Literal["offline", "online"] = Field(
        default="offline", description="'offline' writes files that `wandb sync` uploads; 'online' needs an account."
    )


def wandb_mirror_factory(settings: WandbSettings, folder: Path) -> Callable[[Operation], Mirror] | None:
    """Return a function that opens a mirror for the operation that creates a run, or None when it is not enabled.

    Raises :class:`MirrorError` when it is enabled and `wandb` is not installed.
    """
    if not settings.enabled:
        return None
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise MirrorError(
            "Second log", expected="the package wandb", found="none", fix="Install it with: uv pip install wandb."
        ) from error
    return lambda creation: _Mirror(settings, folder, creation)


class _Mirror:
    """Repeats the operations of one run; after its first failure it does nothing."""

    def __init__(self, settings: WandbSettings, folder: Path, creation: Operation) -> None:
        self._stopped = False
        self._run: Run | None = None
        self._run_safely(lambda: self._start_run(settings, folder, creation))

    def __call__(self, operation: Operation) -> None:
        self._run_safely(lambda: self._apply(operation))

    def _run_safely(self, action: Callable[[], None]) -> None:
        if self._stopped:
            return
        try:
            action()
        except Exception as error:
            self._stopped = True
            _log.warning("The second log in Weights & Biases stopped (%s); the log in MLflow is complete.", error)

    def _start_run(self, settings: WandbSettings, folder: Path, creation: Operation) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        quiet_settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        # Concurrent partitions must not share the global run of the library.
        self._run = wandb.init(
            project=settings.project,
            group=creation["experiment"],
            name=creation["name"],
            config=dict(creation["tags"]),
            mode=settings.mode,
            dir=folder,
            reinit="create_new",
            settings=quiet_settings,
        )

    def _apply(self, operation: Operation) -> None:
        run: Any = self._run
        match operation["kind"]:
            case "params" | "tags":
                run.config.update(operation["values"], allow_val_change=True)
            case "metrics":
                run.log({**operation["values"], "step": operation["step"]})
            case "curves":
                curves = operation["values"]
                for step in range(max(map(len, curves.values()), default=0)):
                    values = {name: curve[step] for name, curve in curves.items() if step < len(curve)}
                    run.log({**values, "step": step})
            case "end":
                run.finish(exit_code=0 if operation["status"] == "FINISHED" else 1)
            case _:
                # Files are stored only in MLflow, so that each model has one copy.
                return
