"""Settings of a model's monitors: leakage screen, skew, drift and performance."""

from typing import Annotated

from pydantic import Field, StringConstraints

from ml_platform.data.arrival import DELAY
from ml_platform.data.settings import Settings
from ml_platform.features.leakage_screen import LeakageScreenSettings
from ml_platform.features.skew import SkewSettings
from ml_platform.monitoring.drift import DriftSettings
from ml_platform.monitoring.evidently_report import ReportSettings
from ml_platform.monitoring.own_monitor import Monitor
from ml_platform.monitoring.performance import PerformanceSettings
from ml_platform.monitoring.prediction_gaps import PredictionGapSettings


class MonitorSettings(Settings):
    """How a model is monitored."""

    leakage_screen: LeakageScreenSettings = Field(
        default_factory=lambda: LeakageScreenSettings.model_validate({}),
        description="Limits above which a feature predicts the label suspiciously well.",
    )
    skew: SkewSettings = Field(
        default_factory=lambda: SkewSettings.model_validate({}),
        description="Sample of logged predictions whose features are recomputed from the change logs.",
    )
    prediction_gaps: PredictionGapSettings = Field(
        default_factory=lambda: PredictionGapSettings.model_validate({}),
        description="When an hour without predictions is a gap.",
    )
    store_behind: str | None = Field(
        default=None,
        pattern=DELAY,
        description="Time by which the online store may be behind the newest partitions, and features at serving "
        "behind those of training, like 2h or 1d; none: a partition of the view.",
    )
    drift: DriftSettings = Field(
        default_factory=lambda: DriftSettings.model_validate({}),
        description="Limits above which a feature counts as drifted.",
    )
    drift_page: ReportSettings = Field(
        default_factory=lambda: ReportSettings.model_validate({}), description="Contents of the drift report page."
    )
    performance: PerformanceSettings = Field(
        default_factory=lambda: PerformanceSettings.model_validate({}),
        description="When realised metrics count as a regression from the evaluation.",
    )
    own: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], Monitor] = Field(
        default_factory=dict,
        description="Monitors of your own by name, as type: package.module:Class with its settings; each is a check of "
        "the asset drift.",
    )
