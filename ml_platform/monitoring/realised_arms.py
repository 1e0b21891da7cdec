"""Realised metrics of the other arms of a period: a candidate with a share of the requests, or a shadow of all."""

from collections.abc import Callable, Mapping
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.monitoring.sampling_weights import equally_weighted, total_weight

STABLE = "stable"
"""Role of the version whose performance counts."""

EXAMPLE = "example"
"""Column that identifies the predicted example."""


class ArmMetrics(BaseModel):
    """The realised metrics of one other arm in a period, beside those of the stable arm on comparable rows."""

    model_config = ConfigDict(frozen=True)

    arm: str = Field(description="Role of the version: candidate or shadow.")
    version: str
    predictions: int
    labelled: int
    compared_on: Literal["same examples", "same time", "nothing"] = Field(
        description="Rows of the stable arm: those of the examples that both arms scored, or those from the first to "
        "the last prediction time of this arm; nothing: too few of them have a label."
    )
    metrics: dict[str, float] = Field(description="Metrics of the labelled rows that are compared.")
    stable_metrics: dict[str, float] = Field(description="Metrics of the stable arm; empty without comparable rows.")


def arm_metrics(
    rows: pl.DataFrame, compute_metrics: Callable[[pl.DataFrame], Mapping[str, float]], minimum_labels: int
) -> list[ArmMetrics]:
    """Return the metrics of each version that predicted in another role than ``stable``, by role and version.

    ``rows`` of one period have ``example``, ``role``, ``version``, ``request_id``, ``predict_at`` and ``outcome``
    (null: unknown). Metrics need ``minimum_labels`` rows and more than one outcome on each side. A shadow scores the
    examples of the stable arm, so both are compared on the same ones. A candidate has requests of its own.
    """
    stable = _labelled(rows.filter(pl.col("role") == STABLE))
    found = []
    others = rows.filter(pl.col("role") != STABLE).sort("role", "version", maintain_order=True)
    for (role, version), arm in others.group_by("role", "version", maintain_order=True):
        labelled = _labelled(arm)
        sides: list[tuple[Literal["same examples", "same time"], pl.DataFrame, pl.DataFrame]] = [
            (
                "same examples",
                labelled.join(stable, on=EXAMPLE, how="semi"),
                stable.join(labelled, on=EXAMPLE, how="semi"),
            ),
            (
                "same time",
                labelled,
                stable.filter(pl.col("predict_at").is_between(arm["predict_at"].min(), arm["predict_at"].max())),
            ),
        ]
        compared = next((each for each in sides if all(_is_enough(side, minimum_labels) for side in each[1:])), None)
        name, own, beside = compared or ("nothing", labelled, stable.clear())
        found.append(
            ArmMetrics(
                arm=str(role),
                version=str(version),
                predictions=total_weight(arm),
                labelled=labelled.height,
                compared_on=name,
                metrics=dict(compute_metrics(own)) if _is_enough(own, minimum_labels) else {},
                stable_metrics=dict(compute_metrics(beside)) if compared else {},
            )
        )
    return found


def _labelled(rows: pl.DataFrame) -> pl.DataFrame:
    known = equally_weighted(rows, ["request_id", "predict_at"]).drop_nulls(OUTCOME)
    return known.sort("predict_at", "score", OUTCOME, maintain_order=True)


def _is_enough(rows: pl.DataFrame, minimum_labels: int) -> bool:
    return rows.height >= minimum_labels and rows[OUTCOME].n_unique() > 1
