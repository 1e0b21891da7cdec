"""Settings of a model's monitors: leakage screen, skew, drift and performance."""

from typing import Annotated

from pydantic import Field, StringConstraints

from ml_platform.data.settings import Settings
from ml_platform.features.leakage_screen import LeakageScreenSettings
from ml_platform.features.skew import SkewSettings
from ml_platform.monitoring.drift import DriftSettings
from ml_platform.monitoring.evidently_report import ReportSettings
from ml_platform.monitoring.own_monitor import Monitor
from ml_platform.monitoring.performance import PerformanceSettings


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
