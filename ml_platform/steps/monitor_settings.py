"""What a model's declaration says of its monitors: when a change, a loss, a difference or a number too good is told of.

Apart from `model.py` because each setting belongs to a room of the engine: this is where they stand together.
"""

from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.features.leakage_screen import LeakageScreenSettings
from ml_platform.features.skew import SkewSettings
from ml_platform.monitoring.drift import DriftSettings
from ml_platform.monitoring.evidently_report import ReportSettings
from ml_platform.monitoring.performance import PerformanceSettings


class MonitorSettings(Settings):
    """How a model is watched."""

    leakage_screen: LeakageScreenSettings = Field(
        default_factory=lambda: LeakageScreenSettings.model_validate({}),
        description="When a training set is too good to be true.",
    )
    skew: SkewSettings = Field(
        default_factory=lambda: SkewSettings.model_validate({}),
        description="Which logged predictions are recomputed from the change logs.",
    )
    drift: DriftSettings = Field(
        default_factory=lambda: DriftSettings.model_validate({}), description="When a feature counts as drifted."
    )
    drift_page: ReportSettings = Field(
        default_factory=lambda: ReportSettings.model_validate({}), description="What the page of the drift draws."
    )
    performance: PerformanceSettings = Field(
        default_factory=lambda: PerformanceSettings.model_validate({}), description="When a promise counts as broken."
    )
